//! libFuzzer feeds the target `broker_settings`; what it does is `tidegate_decoders::broker_settings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::broker_settings(bytes));
