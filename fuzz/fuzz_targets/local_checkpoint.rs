//! libFuzzer feeds the target `local_checkpoint`; what it does is `tidegate_decoders::local_checkpoint`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::local_checkpoint(bytes));
