//! libFuzzer feeds the target `produce_frames`; what it does is `tidegate_decoders::produce_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::produce_frames(bytes));
