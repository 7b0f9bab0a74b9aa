//! What bounds memory and disk.

use super::*;

#[test]
fn units_wait_for_their_bytes_and_control_does_not_wait_behind_data() {
    let folder = tempfile::tempdir().unwrap();
    on_threads(async {
        let settings = JournalSettings { data_bytes: 1 << 20, ..settings() };
        let broker = start_with(folder.path(), &Env::real(), settings, TailCache::new(64 << 20)).await;
        broker.journal.propose(open(0)).await.unwrap();
        let too_large = broker.journal.submit(append(0, &"x".repeat(2 << 20))).await.unwrap_err();
        assert!(matches!(too_large, JournalError::TooLarge { .. }), "{too_large}");
        let value = "x".repeat(300 << 10);
        let writers = (0..16).map(|_| {
            let (journal, value) = (broker.journal.clone(), value.clone());
            tokio::spawn(async move { journal.propose(append(0, &value)).await.unwrap() })
        });
        let writers: Vec<_> = writers.collect();
        broker.journal.propose(open(1)).await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(broker.values(0).await.len(), 16);
        broker.stop().await;
    });
}
