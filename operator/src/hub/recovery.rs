//! What a recovery from the bucket lost, for people. Pure.

use k8s_openapi::jiff::Timestamp;
use tidegate_crd::status::Recovered;
use tidegate_proto::operator::v1 as wire;
use uuid::Uuid;

/// Partitions that the sentence names.
const NAMED: usize = 5;

/// As the status has it.
pub fn told(recovery: &wire::Recovery) -> Recovered {
    let state_time = (recovery.state_time_ms > 0).then(|| time(recovery.state_time_ms));
    Recovered {
        from_hub_id: Uuid::from_slice(&recovery.from_hub_id).map(|id| id.to_string()).unwrap_or_default(),
        time: time(recovery.time_ms),
        message: message(recovery, state_time.as_deref()),
        state_time,
        lost_records: i64::try_from(recovery.lost_records).unwrap_or(i64::MAX),
        lost_partitions: recovery.lost_partitions.into(),
    }
}

fn time(ms: i64) -> String {
    // Whole seconds: what is read back from the API server is what was written.
    Timestamp::from_second(ms.div_euclid(1000)).map(|time| time.to_string()).unwrap_or_default()
}

fn message(recovery: &wire::Recovery, state_time: Option<&str>) -> String {
    let mut text = "the hub was rebuilt from its bucket".to_owned();
    if recovery.lost_records > 0 {
        let range = |lost: &wire::LostRange| {
            format!("{}/{} offsets {} to {}", lost.topic, lost.partition, lost.from, lost.end.saturating_sub(1))
        };
        let named: Vec<String> = recovery.lost.iter().take(NAMED).map(range).collect();
        let more = (recovery.lost_partitions as usize).saturating_sub(named.len());
        text += &format!(
            "; {} acknowledged records of {} partitions had not been uploaded and are lost: {}{}",
            recovery.lost_records,
            recovery.lost_partitions,
            named.join(", "),
            if more > 0 { format!(", and {more} more partitions") } else { String::new() }
        );
    } else {
        text += "; every record that its newest state knew of is there";
    }
    if !recovery.missing_journals.is_empty() {
        let journals: Vec<String> = recovery.missing_journals.iter().map(ToString::to_string).collect();
        text += &format!("; of journals {} nothing usable was found: their partitions begin empty", journals.join(", "));
    }
    if let Some(time) = state_time {
        text += &format!("; what was acknowledged after {time} and had not been uploaded is lost too");
    }
    text
}

/// Whether somebody lost something for certain.
pub fn is_loss(recovered: &Recovered) -> bool {
    recovered.lost_records > 0 || recovered.message.contains("begin empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recovery(lost: &[(&str, i32, i64, i64)]) -> wire::Recovery {
        wire::Recovery {
            from_hub_id: bytes::Bytes::copy_from_slice(Uuid::from_u128(7).as_bytes()),
            time_ms: 1_795_276_800_999,
            state_time_ms: 1_795_276_700_000,
            missing_journals: Vec::new(),
            lost_records: lost.iter().map(|(.., from, end)| (end - from) as u64).sum(),
            lost_partitions: lost.len() as u32,
            lost: lost
                .iter()
                .map(|(topic, partition, from, end)| wire::LostRange {
                    topic: (*topic).to_owned(),
                    partition: *partition,
                    from: *from,
                    end: *end,
                })
                .collect(),
        }
    }

    #[test]
    fn what_is_lost_is_named_with_its_offsets() {
        let told = told(&recovery(&[("clicks", 0, 100, 106), ("views", 2, 0, 1)]));
        assert_eq!((told.lost_records, told.lost_partitions), (7, 2));
        assert!(told.message.contains("7 acknowledged records of 2 partitions"), "{}", told.message);
        assert!(told.message.contains("clicks/0 offsets 100 to 105, views/2 offsets 0 to 0;"), "{}", told.message);
        assert!(
            told.message.ends_with(&format!("after {} and had not been uploaded is lost too", told.state_time.clone().unwrap()))
        );
        assert!(is_loss(&told) && !told.time.contains('.'), "{told:?}");
    }

    #[test]
    fn many_partitions_are_counted_and_nothing_lost_is_said_so() {
        let many: Vec<(&str, i32, i64, i64)> = (0..9).map(|partition| ("t", partition, 0, 1)).collect();
        assert!(told(&recovery(&many)).message.contains(", and 4 more partitions"));
        let none = told(&recovery(&[]));
        assert!(none.message.contains("every record that its newest state knew of is there") && !is_loss(&none));
        let missing = told(&wire::Recovery { missing_journals: vec![2, 3], ..recovery(&[]) });
        assert!(missing.message.contains("of journals 2, 3 nothing usable") && is_loss(&missing));
    }
}
