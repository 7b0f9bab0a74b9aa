//! libFuzzer feeds the target `journal_entry`; what it does is `tidegate_decoders::journal_entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::journal_entry(bytes));
