//! libFuzzer feeds the target `wal_mark`; what it does is `tidegate_decoders::wal_mark`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_decoders::wal_mark(bytes));
