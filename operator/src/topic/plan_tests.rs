//! The table of object × entry, cell by cell. The same cells against a real API server and broker are in `tests/matrix.rs`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tidegate_crd::TopicStatus;

use super::*;

fn topic(spec: &str) -> Topic {
    let mut topic = Topic::new("clicks", serde_json::from_str(spec).unwrap());
    topic.metadata.namespace = Some("shop".into());
    topic.metadata.uid = Some("object-1".into());
    topic.metadata.generation = Some(1);
    topic
}

fn uid(number: u128) -> TopicUid {
    TopicUid(Uuid::from_u128(number))
}

fn bound_to(mut topic: Topic, number: u128) -> Topic {
    topic.status = Some(TopicStatus { topic_uid: Some(uid(number).to_string()), ..TopicStatus::default() });
    topic
}

fn deleting(mut topic: Topic) -> Topic {
    topic.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(0).unwrap()));
    topic.metadata.finalizers = Some(vec![FINALIZER.into()]);
    topic
}

fn entry(number: u128, bound: Option<&str>) -> Entry {
    let settings = settings::fresh(&topic("{}").spec.resolve("clicks").unwrap());
    let bound = bound.map(|object| {
        let (name, uid) = object.split_once('/').unwrap();
        ObjectId { namespace: "shop".into(), name: name.into(), uid: uid.into() }
    });
    Entry {
        uid: uid(number),
        name: "clicks".into(),
        revision: 1,
        settings,
        catalog_managed: false,
        bound,
        detached: false,
        deleted: false,
        internal: false,
    }
}

fn tombstone(number: u128) -> Entry {
    Entry { deleted: true, ..entry(number, None) }
}

const MINE: Option<&str> = Some("clicks/object-1");
const DELETE: &str = r#"{"deletionPolicy": "Delete"}"#;

struct Case<'a> {
    hub: Option<HubView<'a>>,
    namespace_going: Fact,
    other_gone: Fact,
    waited: bool,
    is_served: bool,
}

const PLAIN: Case<'static> =
    Case { hub: None, namespace_going: Fact::No, other_gone: Fact::Unknown, waited: false, is_served: true };

fn next_in(case: &Case<'_>, object: &Topic, entries: Vec<Entry>) -> Next {
    let mut mirror = Mirror::default();
    for entry in entries {
        mirror.put(entry);
    }
    plan(&Seen {
        object,
        hub: case.hub.unwrap_or(HubView::Known(&mirror)),
        is_paused: false,
        is_served: case.is_served,
        namespace_going: case.namespace_going,
        other_gone: case.other_gone,
        waited: case.waited,
    })
}

fn next(object: &Topic, entries: Vec<Entry>) -> Next {
    next_in(&PLAIN, object, entries)
}

fn reason(next: Next) -> &'static str {
    match next {
        Next::Rest(report) => report.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_object_makes_its_topic_once() {
    assert!(matches!(next(&topic("{}"), vec![]), Next::Create(_)));
    // Made, and killed before the status was written: the binding is found.
    assert_eq!(reason(next(&topic("{}"), vec![entry(1, MINE)])), "Serving");
}

#[test]
fn a_topic_is_not_ready_before_its_hub_serves_clients_and_stays_ready_when_the_operator_begins_anew() {
    let unserved = Case { is_served: false, ..PLAIN };
    assert!(matches!(next_in(&unserved, &topic("{}"), vec![]), Next::Create(_)), "it is made all the same");
    let Next::Rest(report) = next_in(&unserved, &topic("{}"), vec![entry(1, MINE)]) else { panic!("not at rest") };
    assert_eq!((report.readiness.clone(), report.reason, report.degraded), (Readiness::NotReady, "HubNotAvailable", false));
    let mut object = bound_to(topic("{}"), 1);
    object.status = Some(crate::topic::status_of(&report, &object.status.clone().unwrap(), Some(1), Timestamp::now()));
    assert_eq!(reason(next_in(&unserved, &object, vec![entry(1, MINE)])), "HubNotAvailable");
    let Next::Rest(report) = next(&object, vec![entry(1, MINE)]) else { panic!("not at rest") };
    object.status = Some(crate::topic::status_of(&report, &object.status.clone().unwrap(), Some(1), Timestamp::now()));
    assert_eq!(reason(next_in(&unserved, &object, vec![entry(1, MINE)])), "Serving");
}

#[test]
fn a_new_object_takes_up_a_topic_that_is_free_and_its_values_stand_until_the_spec_is_edited() {
    let object = topic(r#"{"retention": {"duration": "1h"}}"#);
    assert_eq!(next(&object, vec![entry(1, None)]), Next::MarkAdopted(uid(1)));
    let mut marked = bound_to(object, 1);
    marked.status.as_mut().unwrap().adopted_generation = Some(1);
    assert_eq!(next(&marked, vec![entry(1, None)]), Next::Bind { uid: uid(1), expected: None });
    match next(&marked, vec![entry(1, MINE)]) {
        Next::Rest(report) => assert_eq!(report.drift, ["retention.duration: the object says 1h, the topic has unlimited"]),
        other => panic!("{other:?}"),
    }
    marked.metadata.generation = Some(2);
    assert!(matches!(next(&marked, vec![entry(1, MINE)]), Next::Alter { .. }));
}

#[test]
fn a_detached_topic_is_taken_up_by_an_object_that_names_it() {
    let detached = Entry { detached: true, ..entry(1, None) };
    assert_eq!(next(&topic("{}"), vec![detached]), Next::MarkAdopted(uid(1)));
}

#[test]
fn the_first_object_keeps_the_name_and_the_second_says_so() {
    let others = || vec![entry(1, Some("other/object-2"))];
    assert!(matches!(next(&topic("{}"), others()), Next::CheckOther(other) if other.uid == "object-2"));
    let present = Case { other_gone: Fact::No, ..PLAIN };
    assert_eq!(reason(next_in(&present, &topic("{}"), others())), "NameConflict");
    let gone = Case { other_gone: Fact::Yes, ..PLAIN };
    assert_eq!(next_in(&gone, &topic("{}"), others()), Next::MarkAdopted(uid(1)));
}

#[test]
fn an_object_made_anew_under_its_name_takes_its_topic_up_again() {
    let before = entry(1, Some("clicks/object-0"));
    assert_eq!(next(&topic("{}"), vec![before.clone()]), Next::MarkAdopted(uid(1)));
    let mut marked = bound_to(topic("{}"), 1);
    marked.status.as_mut().unwrap().adopted_generation = Some(1);
    assert_eq!(next(&marked, vec![before.clone()]), Next::Bind { uid: uid(1), expected: before.bound });
}

#[test]
fn a_topic_deleted_elsewhere_is_not_made_again_until_somebody_asks() {
    let mut object = bound_to(topic("{}"), 1);
    assert_eq!(reason(next(&object, vec![tombstone(1)])), "TopicDeletedElsewhere");
    object.metadata.annotations = Some([(RECREATE.to_owned(), uid(7).to_string())].into());
    assert_eq!(reason(next(&object, vec![tombstone(1)])), "TopicDeletedElsewhere", "the wrong topic was named");
    object.metadata.annotations = Some([(RECREATE.to_owned(), uid(1).to_string())].into());
    assert!(matches!(next(&object, vec![tombstone(1)]), Next::Create(_)));
}

#[test]
fn an_object_that_follows_the_catalog_goes_with_its_topic() {
    let object = bound_to(topic(r#"{"management": "Catalog"}"#), 1);
    assert_eq!(next(&object, vec![tombstone(1)]), Next::DeleteObject);
    assert_eq!(reason(next(&object, vec![])), "TopicMissing", "absence is no deletion");
}

#[test]
fn a_deletion_that_was_undone_binds_again() {
    let object = bound_to(topic("{}"), 1);
    assert_eq!(next(&object, vec![entry(1, None)]), Next::MarkAdopted(uid(1)));
}

#[test]
fn a_bound_object_without_entry_or_tombstone_never_makes_an_empty_topic() {
    assert_eq!(reason(next(&bound_to(topic("{}"), 1), vec![])), "TopicMissing");
    // Not even when another topic has the name now.
    assert_eq!(reason(next(&bound_to(topic("{}"), 1), vec![entry(2, None)])), "TopicMissing");
}

#[test]
fn an_edit_alters_the_topic_and_settles() {
    let object = bound_to(topic(r#"{"partitions": 4}"#), 1);
    let Next::Alter { settings, .. } = next(&object, vec![entry(1, MINE)]) else { panic!() };
    assert_eq!(reason(next(&object, vec![Entry { settings, ..entry(1, MINE) }])), "Serving");
}

#[test]
fn an_object_that_follows_the_catalog_gets_its_settings() {
    let catalog = |partitions| Entry {
        catalog_managed: true,
        settings: v1::TopicSettings { partitions: Some(partitions), ..entry(1, MINE).settings },
        ..entry(1, MINE)
    };
    let object = bound_to(topic(r#"{"management": "Catalog"}"#), 1);
    let Next::Follow(spec) = next(&object, vec![catalog(5)]) else { panic!() };
    let followed = Topic { spec: *spec, ..object.clone() };
    assert_eq!(reason(next(&followed, vec![catalog(5)])), "Serving");
    // Somebody sets `management: Object`: the binding is told first.
    let taken = bound_to(topic("{}"), 1);
    assert!(matches!(next(&taken, vec![catalog(1)]), Next::Bind { .. }));
}

#[test]
fn only_delete_topics_carry_a_finalizer() {
    assert_eq!(next(&topic(DELETE), vec![]), Next::AddFinalizer);
    let mut object = topic("{}");
    object.metadata.finalizers = Some(vec![FINALIZER.into()]);
    assert_eq!(next(&object, vec![]), Next::Release(None));
}

#[test]
fn a_deleted_object_deletes_only_the_topic_that_is_bound_to_it() {
    let object = deleting(bound_to(topic(DELETE), 1));
    assert_eq!(next(&object, vec![entry(1, MINE)]), Next::Delete(uid(1)));
    assert_eq!(next(&object, vec![tombstone(1)]), Next::Release(None));
    assert_eq!(next(&object, vec![entry(1, Some("other/object-2"))]), Next::Release(None));
    assert_eq!(next(&object, vec![entry(1, None)]), Next::Release(None));
    assert_eq!(next(&object, vec![]), Next::Release(None));
    let retained = deleting(bound_to(topic("{}"), 1));
    assert_eq!(next(&retained, vec![entry(1, MINE)]), Next::Release(None));
}

#[test]
fn a_deletion_asks_about_the_namespace_first_and_deletes_nothing_if_that_goes() {
    let object = deleting(bound_to(topic(DELETE), 1));
    let unknown = Case { namespace_going: Fact::Unknown, ..PLAIN };
    assert_eq!(next_in(&unknown, &object, vec![entry(1, MINE)]), Next::CheckNamespace);
    let going = Case { namespace_going: Fact::Yes, ..PLAIN };
    assert!(matches!(next_in(&going, &object, vec![entry(1, MINE)]), Next::Release(Some(_))));
}

#[test]
fn a_deletion_waits_for_the_hub_and_then_notes_the_wish() {
    let object = deleting(bound_to(topic(DELETE), 1));
    let away = HubView::Unknown { why: "", is_long: true };
    assert_eq!(next_in(&Case { hub: Some(away), ..PLAIN }, &object, vec![]), Next::Wait);
    let waited = Case { hub: Some(away), waited: true, ..PLAIN };
    assert_eq!(next_in(&waited, &object, vec![]), Next::Note(Wish { uid: uid(1), name: "clicks".into() }));
    assert_eq!(next_in(&waited, &deleting(topic(DELETE)), vec![]), Next::Release(None), "it never had a topic");
}

#[test]
fn a_hub_that_is_gone_or_going_releases_and_deletes_nothing() {
    let object = deleting(bound_to(topic(DELETE), 1));
    for hub in [HubView::Missing, HubView::Going] {
        assert!(matches!(next_in(&Case { hub: Some(hub), ..PLAIN }, &object, vec![]), Next::Release(Some(_))));
    }
    let alive = topic("{}");
    assert_eq!(reason(next_in(&Case { hub: Some(HubView::Missing), ..PLAIN }, &alive, vec![])), "HubNotFound");
    assert_eq!(reason(next_in(&Case { hub: Some(HubView::Going), ..PLAIN }, &alive, vec![])), "HubGoing");
}

#[test]
fn a_short_absence_of_the_hub_is_not_mentioned() {
    let away = |is_long| Case { hub: Some(HubView::Unknown { why: "refused", is_long }), ..PLAIN };
    assert_eq!(next_in(&away(false), &topic("{}"), vec![]), Next::Wait);
    assert_eq!(reason(next_in(&away(true), &topic("{}"), vec![])), "HubUnreachable");
}

#[test]
fn what_another_installation_acts_on_is_left_to_it() {
    let case = Case { hub: Some(HubView::Elsewhere), ..PLAIN };
    for object in [topic("{}"), topic(DELETE), bound_to(topic("{}"), 1)] {
        assert_eq!(next_in(&case, &object, vec![]), Next::Wait);
    }
    let going = deleting(bound_to(topic(DELETE), 1));
    assert_eq!(next_in(&case, &going, vec![]), Next::Wait, "the other one deletes the topic first");
    let abandoned = Case { hub: Some(HubView::Elsewhere), waited: true, ..PLAIN };
    assert!(matches!(next_in(&abandoned, &going, vec![]), Next::Release(Some(_))), "a finalizer traps nothing for ever");
}
