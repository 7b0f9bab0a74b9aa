//! libFuzzer feeds the target `checkpoint_object`; what it does is `tidegate_decoders::checkpoint_object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::checkpoint_object(bytes));
