//! Standard output. Whoever reads it may stop reading (`tidegate topic list | head -1`): that ends the command quietly.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Prints a formatted text and a line end; see the module.
macro_rules! outln {
    () => { $crate::output::write_out(format_args!("\n")) };
    ($($argument:tt)*) => { $crate::output::write_out(format_args!("{}\n", format_args!($($argument)*))) };
}
/// Prints a formatted text; see the module.
macro_rules! out {
    ($($argument:tt)*) => { $crate::output::write_out(format_args!($($argument)*)) };
}
pub(crate) use {out, outln};

/// Writes to standard output. Ends the process when that cannot be written to: with success when the reader has gone, else with an error.
pub(crate) fn write_out(text: Arguments<'_>) {
    if let Err(error) = io::stdout().write_fmt(text) {
        if is_closed(&error) {
            std::process::exit(0);
        }
        eprintln!("tidegate: cannot write to standard output: {error}");
        std::process::exit(1);
    }
}

/// True when the reader of standard output has gone.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    error.kind() == ErrorKind::BrokenPipe
}
