//! libFuzzer feeds the target `journal_state`; what it does is `tidegate_decoders::journal_state`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::journal_state(bytes));
