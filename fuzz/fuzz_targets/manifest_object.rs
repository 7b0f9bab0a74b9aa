//! libFuzzer feeds the target `manifest_object`; what it does is `tidegate_decoders::manifest_object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::manifest_object(bytes));
