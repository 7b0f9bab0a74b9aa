//! Every condition, reason and Event that people meet on a Hub or a Topic, with what it means: the source of the tables in docs/kubernetes-status.md.
//!
//! What is reported is checked against these lists wherever debug assertions are on, which all tests have; a test finds each entry in the code.

/// A reason of a condition.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// `Hub` or `Topic`.
    pub object: &'static str,
    /// The condition's type.
    pub condition: &'static str,
    /// Its status then.
    pub status: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// What it means, and what to do.
    pub meaning: &'static str,
}

const fn row(
    object: &'static str,
    condition: &'static str,
    status: &'static str,
    reason: &'static str,
    meaning: &'static str,
) -> Reason {
    Reason { object, condition, status, reason, meaning }
}

/// All reasons of conditions. `Ready` also takes the reason of `Degraded` where that keeps the object from being ready.
pub const REASONS: &[Reason] = &[
    row("Hub", "Ready", "True", "Serving", "All is as the object says."),
    row(
        "Hub",
        "Ready",
        "True or False",
        "Paused",
        "`spec.paused` is true: changes wait. Deletions are carried out all the same.",
    ),
    row("Hub", "Ready", "False", "BrokerStarting", "Fewer brokers serve than there shall be; the message says how many."),
    row(
        "Hub",
        "Ready",
        "False",
        "UnderReplicated",
        "Journals lack a copy in sync: brokers are coming, going, or catching up. Clients are served.",
    ),
    row("Hub", "Ready", "False", "CatalogUnknown", "The broker serves, and the operator cannot call it; the message says why."),
    row("Hub", "Available", "True", "BrokerReady", "Clients are served."),
    row("Hub", "Available", "False", "NoBroker", "No broker serves; `Degraded` or `status.brokers` says why."),
    row(
        "Hub",
        "Progressing",
        "True",
        "Changing",
        "Pods, volumes or copies are not yet as they should be; the message says what is waited for.",
    ),
    row("Hub", "Progressing", "False", "Settled", "Nothing is on its way."),
    row("Hub", "TierAvailable", "True", "Reached", "The last uploads reached the object store."),
    row(
        "Hub",
        "TierAvailable",
        "False",
        "Unreachable",
        "The object store cannot be reached or refuses; the message has its words. Clients are served, and records stay on the brokers' disks until it can.",
    ),
    row("Hub", "TierAvailable", "Unknown", "NotMeasured", "No broker has said yet."),
    row("Hub", "Degraded", "False", "AsExpected", "Nothing is wrong."),
    row(
        "Hub",
        "Degraded",
        "True",
        "ObjectStoreUnavailable",
        "As `TierAvailable` says: mend bucket, credentials or network. The hub stays Ready.",
    ),
    row("Hub", "Degraded", "True", "Unschedulable", "No node takes the broker's pod; the message has the scheduler's words."),
    row(
        "Hub",
        "Degraded",
        "True",
        "VolumeNotBound",
        "The volume claim gets no volume: the message names the storage class that does not exist or makes none. A class is fixed: delete the Hub and its claim, and apply it with another.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "ImageNotPulled",
        "The broker's image cannot be pulled: correct `spec.brokers.template.image`. The pod is replaced at once.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "ConfigurationMissing",
        "A Secret, or a key in it, is missing; the message names it. The pod starts once it is there.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "BrokerFails",
        "The broker ends by itself; the message has its last words (a wrong bucket or wrong credentials at the first start, say).",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "VolumeOfAnotherHub",
        "The volume claim holds a hub that was here before: set `spec.restoreFrom.hubId` as the message says, or delete the claim.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "VolumeNotChanged",
        "The cluster refused to change the volume: its class cannot grow volumes, say.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "FieldsContested",
        "Another field manager keeps changing what the operator sets; the message names it and the fields. Take them out of its hands.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "HubChanged",
        "The broker belongs to another hub than `status.hubId`: a wrong volume or bucket. Its topics are left alone.",
    ),
    row(
        "Hub",
        "Degraded",
        "True",
        "OperatedElsewhere",
        "Another operator took the hub over; this one leaves it alone for a minute.",
    ),
    row(
        "Hub",
        "OperatedElsewhere",
        "True",
        "ClaimedByAnother",
        "Two installations watch this namespace. The message names the one that acts, and the one that leaves the hub alone.",
    ),
    row("Topic", "Ready", "True", "Serving", "The topic is as the object says, and takes and gives records."),
    row("Topic", "Ready", "False", "HubNotFound", "There is no Hub of the name in `spec.hubRef` in this namespace."),
    row(
        "Topic",
        "Ready",
        "False",
        "HubNotAvailable",
        "The topic is made, and no broker of the hub is ready for clients yet (the Hub is not `Available`).",
    ),
    row("Topic", "Ready", "False", "HubGoing", "The Hub is being deleted: nothing is done for its topics."),
    row(
        "Topic",
        "Ready",
        "Unknown",
        "HubUnreachable",
        "The operator has not reached the hub for 20 s; the message says why. Clients may well be served.",
    ),
    row("Topic", "Degraded", "False", "AsExpected", "Nothing is wrong."),
    row(
        "Topic",
        "Degraded",
        "True",
        "NameConflict",
        "Another Topic has the name; the message says which. The first one bound keeps it.",
    ),
    row(
        "Topic",
        "Degraded",
        "True",
        "TopicDeletedElsewhere",
        "The topic was deleted, and not through this object: restore it within 24 h, delete the object, or ask for a new topic as the message says.",
    ),
    row(
        "Topic",
        "Degraded",
        "True",
        "TopicMissing",
        "The hub knows neither the topic nor a deletion of it (a catalog that was lost, say): recover it, or ask for a new topic. It is never made again empty by itself.",
    ),
    row("Topic", "Degraded", "True", "Invalid", "A field has a value that cannot be used; the message names it."),
    row("Topic", "Degraded", "True", "Refused", "The hub refused; the message has its words."),
    row("Topic", "Drifted", "False", "AsSpecified", "The topic's settings are those of the object."),
    row(
        "Topic",
        "Drifted",
        "True",
        "CatalogDiffers",
        "The object was bound to a topic that had other settings, and those stand until the spec is edited; the message names each.",
    ),
];

/// All Events: (object, reason, what happened). A condition `Degraded` that becomes true is an Event of its reason too.
pub const EVENTS: &[(&str, &str, &str)] = &[
    ("Hub", "Ready", "The hub became Ready."),
    ("Hub", "PodReplaced", "A pod of an outdated template was deleted, so that a new one comes."),
    ("Hub", "Scaling", "The load asks for more or fewer brokers (`brokers.autoscaling`), and which target does."),
    ("Hub", "BrokerAdded", "A broker was made: the hub grows, or one was lost."),
    ("Hub", "BrokerDraining", "A broker leaves for good, and why: its leaders and copies go to others first."),
    ("Hub", "BrokerRemoved", "A broker that the hub had retired was deleted, with its volume claim."),
    ("Hub", "FieldsSetBack", "Another field manager had changed what the operator sets; it was set back."),
    ("Hub", "OperatedElsewhere", "This installation leaves the hub to another one."),
    ("Hub", "Recovered", "The hub was rebuilt from its bucket: says what was lost with the volume. `status.recovered` keeps it."),
    (
        "Hub",
        "Kept",
        "The Hub was deleted: names the volume claim and the bucket's prefix that stay, and how they are taken up again.",
    ),
    ("Topic", "Created", "The topic was made in the hub."),
    ("Topic", "Bound", "The object has a topic now that was there before."),
    ("Topic", "Altered", "The topic was changed as the object says."),
    ("Topic", "Deleted", "The topic was deleted as the object asked; it can be restored for 24 h."),
    ("Topic", "Released", "The object was let go and nothing was deleted; the note says why."),
    ("Topic", "DeletionNoted", "The hub cannot be reached: the topic will be deleted when it is back."),
    ("Topic", "Adopted", "The object was made for a topic that had none."),
];

/// Whether a condition may have a reason.
pub fn is_known(condition: &str, reason: &str) -> bool {
    REASONS
        .iter()
        .any(|row| row.reason == reason && (row.condition == condition || (condition == "Ready" && row.condition == "Degraded")))
}

/// Whether an Event may have a reason.
pub fn is_event(object: &str, reason: &str) -> bool {
    EVENTS.iter().any(|event| event.0 == object && event.1 == reason)
        || REASONS.iter().any(|row| row.object == object && row.condition == "Degraded" && row.reason == reason)
}

/// The tables of docs/kubernetes-status.md, between its markers.
pub fn tables() -> String {
    let mut text = String::new();
    for object in ["Hub", "Topic"] {
        text.push_str(&format!("### {object}\n\n| condition | status | reason | what it means |\n|---|---|---|---|\n"));
        for row in REASONS.iter().filter(|row| row.object == object) {
            text.push_str(&format!("| `{}` | {} | `{}` | {} |\n", row.condition, row.status, row.reason, row.meaning));
        }
        text.push_str("\n| Event | what happened |\n|---|---|\n");
        for (_, reason, meaning) in EVENTS.iter().filter(|event| event.0 == object) {
            text.push_str(&format!("| `{reason}` | {meaning} |\n"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests use real files")]

    use std::path::{Path, PathBuf};

    use super::*;

    const MARKS: (&str, &str) = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n");

    fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                sources(&entry, into);
            } else if !entry.to_str().unwrap().ends_with("tests.rs") && entry.file_name().unwrap() != "reasons.rs" {
                into.push(entry);
            }
        }
    }

    #[test]
    fn every_reason_of_the_tables_is_one_that_the_code_gives() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        let reasons = REASONS.iter().map(|row| row.reason).chain(EVENTS.iter().map(|event| event.1));
        let missing: Vec<&str> = reasons.filter(|reason| !code.contains(&format!("\"{reason}\""))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// `TIDEGATE_BLESS=1 cargo test -p tidegate-operator reasons` writes them anew.
    #[test]
    fn the_documented_tables_are_those_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes-status.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(MARKS.0).unwrap();
        let (known, after) = rest.split_once(MARKS.1).unwrap();
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            std::fs::write(&path, format!("{before}{}{}{}{after}", MARKS.0, tables(), MARKS.1)).unwrap();
        } else {
            assert_eq!(known, tables());
        }
    }
}
