//! Cells of docs/topic-matrix.md.

use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker::hub::{Caller, NewTopic};
use tidegate_broker::{RunningBroker, hub::Listing};
use tidegate_crd::topic::Management;
use tidegate_model::{TopicSettings, TopicUid};

use crate::bed::{Bed, create, eventually, said, say, uid_of};

async fn started(name: &str) -> (Bed, RunningBroker) {
    let bed = Bed::new(name).await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    (bed, broker)
}

#[tokio::test(flavor = "multi_thread")]
async fn created_here_edited_here_and_refused_to_clients() {
    let (bed, broker) = started("here").await;
    let operator = bed.operator();
    bed.topic("warm-up", json!({})).await;
    bed.until("warm-up", "Serving").await;
    let started = Instant::now();
    bed.topic("clicks", json!({"partitions": 3, "retention": {"duration": "7d"}})).await;
    let object = bed.until("clicks", "Serving").await;
    println!("apply -> Ready: {} ms", started.elapsed().as_millis());
    let entry = broker.hub().topic("clicks").unwrap();
    assert_eq!((entry.uid.to_string(), entry.settings.partitions), (uid_of(&object), 3));
    assert_eq!(entry.bound.as_ref().unwrap().uid, object.metadata.uid.clone().unwrap());
    bed.topic("clicks", json!({"partitions": 5})).await;
    let object = bed.until("clicks", "Serving").await;
    let entry = broker.hub().topic("clicks").unwrap();
    assert_eq!((entry.settings.partitions, entry.settings.retention_ms), (5, None), "absent retention means unlimited");
    assert_eq!(object.status.unwrap().partitions, Some(5));
    let refused = broker.hub().delete_topic(entry.uid, None, &Caller::Client).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("{}/clicks", bed.namespace)), "{refused}");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn created_there_followed_and_taken_over() {
    let (bed, broker) = started("there").await;
    let operator = bed.operator();
    bed.topic("warm-up", json!({})).await;
    bed.until("warm-up", "Serving").await;
    let started = Instant::now();
    let uid = create(&broker, "Web_Clicks", TopicSettings { partitions: 2, ..TopicSettings::default() }).await;
    let object = bed.until("web-clicks", "Serving").await;
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    println!("created there -> object Ready: {} ms", started.elapsed().as_millis());
    assert_eq!(
        (uid_of(&object), object.spec.management, object.spec.topic_name.as_deref()),
        (uid.to_string(), Management::Catalog, Some("Web_Clicks"))
    );
    // A client's change arrives in the object.
    let settings = TopicSettings { partitions: 4, retention_ms: Some(3_600_000), ..TopicSettings::default() };
    broker.hub().alter_topic(uid, None, settings, &Caller::Client).await.unwrap();
    let topics = bed.topics();
    eventually("the object follows", || async {
        let spec = topics.get("web-clicks").await.unwrap().spec;
        (spec.partitions == 4 && spec.retention.duration.map(|span| span.0).as_deref() == Some("1h")).then_some(())
    })
    .await;
    // Deleted there: the object goes, by its tombstone.
    broker.hub().delete_topic(uid, None, &Caller::Client).await.unwrap();
    bed.gone("web-clicks").await;
    // Another one is taken over by a person.
    create(&broker, "views", TopicSettings::default()).await;
    bed.until("views", "Serving").await;
    bed.topic("views", json!({"management": "Object", "partitions": 2})).await;
    bed.until("views", "Serving").await;
    assert_eq!(broker.hub().topic("views").unwrap().settings.partitions, 2);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_holds_no_field_of_an_adopted_object_after_a_persons_first_apply() {
    let (bed, broker) = started("managed").await;
    let operator = bed.operator();
    create(&broker, "clicks", TopicSettings { partitions: 2, retention_ms: Some(3_600_000), ..TopicSettings::default() }).await;
    bed.until("clicks", "Serving").await;
    let managers = || async {
        let fields = bed.topics().get("clicks").await.unwrap().metadata.managed_fields.unwrap_or_default();
        fields.into_iter().filter(|entry| entry.subresource.is_none()).filter_map(|entry| entry.manager).collect::<Vec<_>>()
    };
    assert_eq!(managers().await, ["tidegate-adoption"]);
    // As `kubectl apply --server-side`, without taking anything by force.
    let apply = |spec: Value| {
        let topics = bed.topics();
        async move {
            let object =
                json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "clicks"}, "spec": spec});
            topics.patch("clicks", &PatchParams::apply("kubectl"), &Patch::Apply(&object)).await
        }
    };
    // An object that differs meets the operator's fields, as any two managers meet: nothing is overwritten unseen.
    let refused = apply(json!({"hubRef": {"name": "hub"}, "partitions": 5})).await.unwrap_err().to_string();
    // The words that docs/kubernetes.md gives the way out for.
    assert!(refused.contains("Apply failed with 1 conflict: conflict with \"tidegate-adoption\""), "{refused}");
    assert!(refused.contains(".spec.partitions"), "{refused}");
    // The object as it is, as an export has it: no value changes, and the operator's manager leaves.
    let same = json!({"hubRef": {"name": "hub"}, "partitions": 2, "retention": {"duration": "1h"}});
    apply(same).await.unwrap();
    eventually("the operator's manager has left", || async { (managers().await == ["kubectl"]).then_some(()) }).await;
    // From now on the object is the person's alone: values change without force, and a field that is left out goes.
    apply(json!({"hubRef": {"name": "hub"}, "partitions": 3, "management": "Object"})).await.unwrap();
    let object = bed.until("clicks", "Serving").await;
    assert_eq!((object.spec.retention.duration, object.spec.management), (None, Management::Object));
    let settings = broker.hub().topic("clicks").unwrap().settings.clone();
    assert_eq!((settings.partitions, settings.retention_ms), (3, None));
    assert_eq!(managers().await, ["kubectl"]);
    operator.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_here_under_both_policies_and_taken_up_again() {
    let (bed, broker) = started("deleted").await;
    let operator = bed.operator();
    bed.topic("kept", json!({"partitions": 2})).await;
    bed.topic("dropped", json!({"deletionPolicy": "Delete"})).await;
    let kept = uid_of(&bed.until("kept", "Serving").await);
    let dropped = uid_of(&bed.until("dropped", "Serving").await);
    bed.delete("kept").await;
    bed.delete("dropped").await;
    bed.gone("kept").await;
    bed.gone("dropped").await;
    eventually("the topic is let loose", || async { broker.hub().topic("kept").unwrap().detached.then_some(()) }).await;
    eventually("the topic is deleted", || async { broker.hub().topic("dropped").is_err().then_some(()) }).await;
    let hubs = bed.hubs();
    eventually("the hub lists what is detached", || async {
        (hubs.get("hub").await.unwrap().status?.detached_topics == ["kept"]).then_some(())
    })
    .await;
    // Named again: the same topic with its own settings, until the spec is edited.
    bed.topic("kept", json!({"partitions": 2, "retention": {"duration": "1d"}})).await;
    let again = bed.until("kept", "Serving").await;
    assert_eq!(uid_of(&again), kept);
    let drifted = again.status.unwrap().conditions.into_iter().find(|condition| condition.type_ == "Drifted").unwrap();
    assert_eq!((drifted.status.as_str(), drifted.message.contains("retention.duration")), ("True", true), "{drifted:?}");
    assert_eq!(broker.hub().topic("kept").unwrap().settings.retention_ms, None);
    bed.topic("kept", json!({"partitions": 2, "retention": {"duration": "2d"}})).await;
    bed.until("kept", "Serving").await;
    assert_eq!(broker.hub().topic("kept").unwrap().settings.retention_ms, Some(172_800_000));
    // Undone: back, detached, and no object appears by itself.
    let uid = TopicUid(dropped.parse().unwrap());
    broker.hub().undelete_topic(uid, &Caller::Client).await.unwrap();
    assert!(broker.hub().topic("dropped").unwrap().detached);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_with_older_settings_alters_nothing_and_says_so() {
    let (bed, broker) = started("backup").await;
    let operator = bed.operator();
    bed.topic("clicks", json!({"partitions": 2, "retention": {"duration": "1d"}})).await;
    let backup = bed.until("clicks", "Serving").await;
    say(&broker, "clicks", "after the backup").await;
    bed.topic("clicks", json!({"partitions": 5, "retention": {"duration": "7d"}})).await;
    let newer = bed.until("clicks", "Serving").await;
    operator.stop().await;
    bed.delete("clicks").await;
    bed.gone("clicks").await;
    // As tools for backups do: another uid, the old spec, and the old status after it.
    let mut restored = backup.clone();
    restored.metadata = kube::api::ObjectMeta { name: Some("clicks".into()), ..Default::default() };
    bed.topics().create(&kube::api::PostParams::default(), &restored).await.unwrap();
    let status = Patch::Merge(json!({"status": backup.status}));
    bed.topics().patch_status("clicks", &PatchParams::default(), &status).await.unwrap();
    let operator = bed.operator();
    let entry = || broker.hub().topic("clicks").unwrap();
    let topics = bed.topics();
    let drifted = eventually("the difference is told", || async {
        let conditions = topics.get("clicks").await.unwrap().status?.conditions;
        conditions.into_iter().find(|condition| condition.type_ == "Drifted" && condition.status == "True")
    })
    .await;
    assert!(drifted.message.contains("retention.duration") && drifted.message.contains("partitions"), "{drifted:?}");
    assert_eq!(uid_of(&bed.topics().get("clicks").await.unwrap()), uid_of(&newer));
    assert_eq!((entry().settings.partitions, entry().settings.retention_ms), (5, Some(7 * 86_400_000)));
    assert_eq!(said(&broker, "clicks"), 1);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_elsewhere_undone_and_asked_for_anew() {
    let (bed, broker) = started("elsewhere").await;
    let operator = bed.operator();
    bed.topic("clicks", json!({})).await;
    let uid = uid_of(&bed.until("clicks", "Serving").await);
    let topic = TopicUid(uid.parse().unwrap());
    let caller = Caller::Operator { epoch: broker.hub().operator_epoch(), object: None };
    broker.hub().delete_topic(topic, None, &caller).await.unwrap();
    bed.until("clicks", "TopicDeletedElsewhere").await;
    broker.hub().undelete_topic(topic, &Caller::Client).await.unwrap();
    assert_eq!(uid_of(&bed.until("clicks", "Serving").await), uid);
    broker.hub().delete_topic(topic, None, &caller).await.unwrap();
    bed.until("clicks", "TopicDeletedElsewhere").await;
    let ask = json!({"metadata": {"annotations": {"tidegate.dev/recreate": uid}}});
    bed.topics().patch("clicks", &Default::default(), &kube::api::Patch::Merge(ask)).await.unwrap();
    let made = bed.until("clicks", "Serving").await;
    assert_ne!(uid_of(&made), uid);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_the_operator_was_down_is_caught_up_with() {
    let (bed, broker) = started("down").await;
    let operator = bed.operator();
    for name in ["vanished", "anew", "edited"] {
        bed.topic(name, json!({})).await;
    }
    let mut uids = Vec::new();
    for name in ["vanished", "anew", "edited"] {
        uids.push(uid_of(&bed.until(name, "Serving").await));
    }
    operator.stop().await;
    bed.delete("vanished").await;
    bed.delete("anew").await;
    bed.topic("anew", json!({})).await;
    bed.topic("edited", json!({"partitions": 3})).await;
    create(&broker, "made-there", TopicSettings::default()).await;
    let operator = bed.operator();
    assert_eq!(uid_of(&bed.until("anew", "Serving").await), uids[1], "the same topic under the new object");
    bed.until("edited", "Serving").await;
    assert_eq!(broker.hub().topic("edited").unwrap().settings.partitions, 3);
    bed.until("made-there", "Serving").await;
    eventually("the vanished object's topic is loose", || async {
        broker.hub().topic("vanished").unwrap().detached.then_some(())
    })
    .await;
    assert_eq!(broker.hub().topic("vanished").unwrap().uid.to_string(), uids[0]);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_objects_for_one_name_and_both_doors_at_once() {
    let (bed, broker) = started("names").await;
    let operator = bed.operator();
    bed.topic("first", json!({"topicName": "clicks"})).await;
    let uid = uid_of(&bed.until("first", "Serving").await);
    bed.topic("second", json!({"topicName": "clicks"})).await;
    let second = bed.until("second", "NameConflict").await;
    assert!(second.status.unwrap().conditions[0].message.contains("/first"));
    bed.delete("first").await;
    assert_eq!(uid_of(&bed.until("second", "Serving").await), uid, "the topic stays one");
    let object = bed.topic("both", json!({}));
    let entry = async {
        let new = NewTopic {
            name: "both".into(),
            settings: TopicSettings::default(),
            bound: None,
            management: tidegate_journal::entry::Management::Catalog,
        };
        broker.hub().create_topic(new, &Caller::Client).await.ok()
    };
    tokio::join!(object, entry);
    bed.until("both", "Serving").await;
    let named = broker.hub().list_topics("both", "", 10, Listing::WithDeleted).len();
    assert_eq!(named, 1, "one topic, whoever was first");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_without_the_hub_is_noted_and_carried_out() {
    let mut bed = Bed::new("wish").await;
    bed.patience = Some(Duration::from_secs(1));
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    bed.topic("clicks", json!({"deletionPolicy": "Delete"})).await;
    bed.until("clicks", "Serving").await;
    broker.shutdown().await;
    bed.delete("clicks").await;
    bed.gone("clicks").await;
    let hub = bed.hubs().get("hub").await.unwrap();
    assert_eq!(hub.status.unwrap().pending_deletions[0].topic_name, "clicks");
    let broker = bed.broker("hub").await;
    eventually("the wish is carried out", || async { broker.hub().topic("clicks").is_err().then_some(()) }).await;
    let hubs = bed.hubs();
    eventually("the note is gone", || async {
        hubs.get("hub").await.unwrap().status?.pending_deletions.is_empty().then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_goes_releases_and_deletes_nothing() {
    let (bed, broker) = started("going").await;
    let operator = bed.operator();
    bed.topic("clicks", json!({"deletionPolicy": "Delete"})).await;
    bed.until("clicks", "Serving").await;
    let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(bed.client.clone());
    namespaces.delete(&bed.namespace, &Default::default()).await.unwrap();
    create(&broker, "late", TopicSettings::default()).await;
    bed.delete("clicks").await;
    bed.gone("clicks").await;
    assert!(broker.hub().topic("clicks").is_ok(), "no data is deleted with a namespace");
    assert!(bed.topics().get_opt("late").await.unwrap().is_none(), "nothing is made in a namespace that goes");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_named_and_missing_is_waited_for() {
    let bed = Bed::new("nohub").await;
    let operator = bed.operator();
    bed.topic("clicks", json!({})).await;
    let waiting = bed.until("clicks", "HubNotFound").await;
    assert!(waiting.status.unwrap().conditions[0].message.contains("`hub`"));
    let _broker = bed.broker("hub").await;
    bed.hub("hub").await;
    bed.until("clicks", "Serving").await;
    operator.stop().await;
}
