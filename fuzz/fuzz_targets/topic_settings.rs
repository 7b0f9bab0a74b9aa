//! libFuzzer feeds the target `topic_settings`; what it does is `tidegate_decoders::topic_settings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::topic_settings(bytes));
