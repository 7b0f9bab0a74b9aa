//! Conditions as the API conventions ask: the time changes only with the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// A condition to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub kind: &'static str,
    /// Whether it holds; `None` is unknown.
    pub holds: Option<bool>,
    /// Why, in one word.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Wanted {
    /// A condition.
    pub fn new(kind: &'static str, holds: Option<bool>, reason: impl Into<String>, message: impl Into<String>) -> Wanted {
        let reason = reason.into();
        debug_assert!(crate::reasons::is_known(kind, &reason), "{kind}={reason} is not in reasons.rs");
        Wanted { kind, holds, reason, message: message.into() }
    }
}

/// The new list: as wanted, with the old times where the status is the same. Conditions that nobody wants any more go.
pub fn merge(old: &[Condition], wanted: &[Wanted], generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    wanted
        .iter()
        .map(|wanted| {
            let status = match wanted.holds {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let before = old.iter().find(|condition| condition.type_ == wanted.kind && condition.status == status);
            Condition {
                type_: wanted.kind.to_owned(),
                status: status.to_owned(),
                reason: wanted.reason.clone(),
                message: wanted.message.clone(),
                observed_generation: generation,
                // The API server keeps whole seconds: anything finer would look like a change for ever.
                last_transition_time: before
                    .map_or_else(|| Time(whole_second(now)), |before| before.last_transition_time.clone()),
            }
        })
        .collect()
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_stays_while_the_status_does() {
        let (early, late) = (Timestamp::from_second(10).unwrap(), Timestamp::from_second(20).unwrap());
        let first = merge(&[], &[Wanted::new("Ready", Some(true), "Serving", "a")], Some(1), early);
        let second = merge(&first, &[Wanted::new("Ready", Some(true), "Paused", "b")], Some(2), late);
        assert_eq!((second[0].last_transition_time.0, second[0].reason.as_str()), (early, "Paused"));
        let third = merge(&second, &[Wanted::new("Ready", None, "HubUnreachable", "c")], Some(2), late);
        assert_eq!((third[0].last_transition_time.0, third[0].status.as_str()), (late, "Unknown"));
    }
}
