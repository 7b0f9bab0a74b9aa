//! libFuzzer feeds the target `wal_file`; what it does is `tidegate_decoders::wal_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::wal_file(bytes));
