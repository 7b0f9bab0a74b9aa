//! libFuzzer feeds the target `record_batch`; what it does is `tidegate_decoders::record_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::record_batch(bytes));
