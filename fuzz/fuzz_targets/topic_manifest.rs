//! libFuzzer feeds the target `topic_manifest`; what it does is `tidegate_decoders::topic_manifest`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::topic_manifest(bytes));
