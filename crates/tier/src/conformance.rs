//! What every object store must do; each implementation runs it against the real thing.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::codec::crc32c;
use crate::store::{ObjectStore, Put, PutMode, StoreError};

/// Runs everything below `prefix`, which must be empty in the store.
///
/// # Panics
/// At the first thing that is not as the contract says.
pub async fn run_all(store: Arc<dyn ObjectStore>, prefix: &str) {
    what_was_put_is_read_back(&*store, &format!("{prefix}/basic")).await;
    a_key_is_created_once(&store, &format!("{prefix}/once")).await;
    ranges_are_exact(&*store, &format!("{prefix}/ranges")).await;
    absent_objects_are_told_apart(&*store, &format!("{prefix}/absent")).await;
    listings_are_sorted_and_paged(&*store, &format!("{prefix}/list")).await;
    large_objects_arrive_whole(&*store, &format!("{prefix}/large")).await;
    bad_keys_are_refused(&*store).await;
}

async fn what_was_put_is_read_back(store: &dyn ObjectStore, prefix: &str) {
    let key = format!("{prefix}/a");
    let chunks = vec![Bytes::from_static(b"hello "), Bytes::new(), Bytes::from_static(b"world")];
    let put = store.put(&key, chunks, PutMode::CreateOnly).await.expect("a put");
    assert_eq!(put, Put { bytes: 11, crc32c: crc32c(b"hello world") });
    assert_eq!(store.get(&key).await.expect("a get"), Bytes::from_static(b"hello world"));
    assert_eq!(store.head(&key).await.expect("a head").bytes, 11);
    store.verify(&key, put).await.expect("what was put verifies");
    let wrong = store.verify(&key, Put { crc32c: 1, ..put }).await;
    assert!(matches!(wrong, Err(StoreError::Corrupt { .. })), "{wrong:?}");
    let empty = format!("{prefix}/empty");
    store.put(&empty, vec![], PutMode::CreateOnly).await.expect("an empty object");
    assert!(store.get(&empty).await.expect("an empty object").is_empty());
}

async fn a_key_is_created_once(store: &Arc<dyn ObjectStore>, prefix: &str) {
    let key = format!("{prefix}/a");
    store.put(&key, vec![Bytes::from_static(b"first")], PutMode::CreateOnly).await.expect("the first put");
    let second = store.put(&key, vec![Bytes::from_static(b"second")], PutMode::CreateOnly).await;
    assert!(matches!(second, Err(StoreError::AlreadyExists { .. })), "{second:?}");
    assert_eq!(store.get(&key).await.expect("a get"), Bytes::from_static(b"first"));
    let key = format!("{prefix}/race");
    let racers = (0..4u8).map(|number| {
        let (store, key) = (Arc::clone(store), key.clone());
        async move { store.put(&key, vec![Bytes::from(vec![number; 100])], PutMode::CreateOnly).await }
    });
    let won = join_all(racers).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1, "one of several puts of one key at once succeeds");
}

async fn ranges_are_exact(store: &dyn ObjectStore, prefix: &str) {
    let key = format!("{prefix}/a");
    let content: Vec<u8> = (0..=255).collect();
    store.put(&key, vec![Bytes::from(content.clone())], PutMode::CreateOnly).await.expect("a put");
    for range in [0..1, 0..256, 255..256, 100..200] {
        let expected = &content[range.start as usize..range.end as usize];
        assert_eq!(&store.get_range(&key, range.clone()).await.expect("a range")[..], expected, "{range:?}");
    }
    for range in [5..5, 200..300, 256..257, 1000..1001] {
        let refused = store.get_range(&key, range.clone()).await;
        assert!(matches!(refused, Err(StoreError::InvalidRange { .. })), "{range:?}: {refused:?}");
    }
}

async fn absent_objects_are_told_apart(store: &dyn ObjectStore, prefix: &str) {
    let key = format!("{prefix}/a");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.get_range(&key, 0..1).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.head(&key).await, Err(StoreError::NotFound { .. })));
    store.delete(&key).await.expect("deleting what is not there is no error");
    store.put(&key, vec![Bytes::from_static(b"x")], PutMode::CreateOnly).await.expect("a put");
    store.delete(&key).await.expect("a delete");
    assert!(matches!(store.get(&key).await, Err(StoreError::NotFound { .. })));
}

async fn listings_are_sorted_and_paged(store: &dyn ObjectStore, prefix: &str) {
    let mut keys: Vec<String> = (0..12).map(|number| format!("{prefix}/{}/{number}", number % 3)).collect();
    for key in &keys {
        store.put(key, vec![Bytes::from_static(b"x")], PutMode::CreateOnly).await.expect("a put");
    }
    keys.sort();
    let names = |found: Vec<crate::ObjectInfo>| found.into_iter().map(|object| object.key).collect::<Vec<_>>();
    let all = names(store.list(&format!("{prefix}/"), None, 100).await.expect("a list"));
    assert_eq!(all, keys);
    let mut paged = Vec::new();
    loop {
        let page = names(store.list(&format!("{prefix}/"), paged.last().map(String::as_str), 5).await.expect("a page"));
        let is_last = page.len() < 5;
        paged.extend(page);
        if is_last {
            break;
        }
    }
    assert_eq!(paged, keys);
    let some = names(store.list(&format!("{prefix}/1/"), None, 100).await.expect("a list"));
    assert_eq!(some, keys.iter().filter(|key| key.starts_with(&format!("{prefix}/1/"))).cloned().collect::<Vec<_>>());
    assert!(store.list(&format!("{prefix}/none/"), None, 100).await.expect("a list").is_empty());
}

async fn large_objects_arrive_whole(store: &dyn ObjectStore, prefix: &str) {
    // Large enough for an upload in parts.
    let key = format!("{prefix}/a");
    let chunk =
        Bytes::from((0..1 << 20).map(|number: u32| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>());
    let put = store.put(&key, vec![chunk.clone(); 70], PutMode::CreateOnly).await.expect("a large put");
    assert_eq!(put.bytes, 70 << 20);
    store.verify(&key, put).await.expect("it arrived whole");
    let again = store.put(&key, vec![Bytes::from_static(b"other")], PutMode::CreateOnly).await;
    assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "{again:?}");
    assert_eq!(store.get_range(&key, 33 << 20..(33 << 20) + 10).await.expect("a range"), chunk.slice(..10));
}

async fn bad_keys_are_refused(store: &dyn ObjectStore) {
    for key in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/./b", "a b", "ä", "a\u{0}b"] {
        let refused = store.put(key, vec![], PutMode::CreateOnly).await;
        assert!(matches!(refused, Err(StoreError::InvalidKey { .. })), "{key:?}: {refused:?}");
    }
}
