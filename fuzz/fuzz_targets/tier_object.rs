//! libFuzzer feeds the target `tier_object`; what it does is `tidegate_decoders::tier_object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::tier_object(bytes));
