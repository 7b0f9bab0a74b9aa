//! What the operator stands on goes away and comes back: the API server, the definitions of our kinds.

use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_broker::RunningBroker;
use tidegate_model::TopicSettings;

use tidegate_operator::backoff;

use crate::bed::{Bed, create, eventually, expendable, install_definitions, said, say, uid_of};
use crate::program::{Program, broker_at_pod};

/// Kills the API server and keeps it down while `meanwhile` runs.
async fn without_api_server(folder: &Path, meanwhile: impl Future<Output = ()>) {
    std::fs::write(folder.join("down"), "").unwrap();
    let process = std::fs::read_to_string(folder.join("kube-apiserver.pid")).unwrap();
    let told = std::process::Command::new("kill").args(["-KILL", process.trim()]).status().unwrap();
    assert!(told.success());
    meanwhile.await;
    std::fs::remove_file(folder.join("down")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_stops_no_record_and_the_operator_comes_back_by_itself() {
    let (server, _alone) = expendable().await;
    let bed = Bed::on(server, "away").await;
    let broker = broker_at_pod(&bed).await;
    bed.hub("hub").await;
    let mut program = Program::start(&bed, "first", 3600);
    bed.topic("clicks", json!({})).await;
    bed.until("clicks", "Serving").await;
    say(&broker, "clicks", "before").await;
    let away = Instant::now();
    without_api_server(&server.folder, async {
        create(&broker, "made-meanwhile", TopicSettings::default()).await;
        let mut records = 1;
        // Longer than the Lease holds: the operator ends, and what a kubelet does is done here.
        let code = loop {
            say(&broker, "clicks", "meanwhile").await;
            records += 1;
            if let Some(code) = program.ended() {
                break code;
            }
            assert!(away.elapsed() < Duration::from_secs(30), "it should end when its Lease does");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!((code, said(&broker, "clicks")), (1, records), "every record was taken");
        program = Program::start(&bed, "second", 3600);
        eventually("the new process tries", || async {
            (program.metric("tidegate_operator_api_calls_total").await > 1).then_some(())
        })
        .await;
        assert!(program.ended().is_none(), "it waits for the API server");
    })
    .await;
    let back = Instant::now();
    bed_answers(&bed).await;
    bed.topic("clicks", json!({"partitions": 2})).await;
    bed.until("clicks", "Serving").await;
    bed.until("made-meanwhile", "Serving").await;
    assert_eq!(broker.hub().topic("clicks").unwrap().settings.partitions, 2);
    assert!(program.ended().is_none());
    println!("API server away for {:.1?}; allowed again -> all caught up: {:.1?}", back - away, back.elapsed());
    drop(program);
    broker.shutdown().await;
}

/// Waits until the API server answers again.
async fn bed_answers(bed: &Bed) {
    let topics = bed.topics();
    eventually("the API server answers", || async { topics.list(&Default::default()).await.ok().map(drop) }).await;
}

async fn delete_definition(bed: &Bed, name: &str) {
    let definitions: Api<CustomResourceDefinition> = Api::all(bed.client.clone());
    definitions.delete(name, &DeleteParams::default()).await.unwrap();
    eventually("the definition is gone", || async { definitions.get_opt(name).await.unwrap().is_none().then_some(()) }).await;
}

fn living(broker: &RunningBroker, name: &str) -> String {
    broker.hub().topic(name).unwrap().uid.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_are_deleted_and_installed_again_cost_no_topic() {
    let (server, _alone) = expendable().await;
    let bed = Bed::on(server, "definitions").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let operator = bed.operator();
    for (name, policy) in [("kept", "Retain"), ("dropped", "Delete")] {
        bed.topic(name, json!({"deletionPolicy": policy})).await;
    }
    let kept = uid_of(&bed.until("kept", "Serving").await);
    let dropped = uid_of(&bed.until("dropped", "Serving").await);
    delete_definition(&bed, "topics.tidegate.dev").await;
    // Long enough that waits which only grew would be longer than all that follows may take.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(
        (living(&broker, "kept"), living(&broker, "dropped")),
        (kept.clone(), dropped.clone()),
        "nobody asked for their end"
    );
    install_definitions(&bed.client).await;
    let installed = Instant::now();
    bed.topic("kept", json!({})).await;
    bed.topic("dropped", json!({"deletionPolicy": "Delete"})).await;
    assert_eq!(uid_of(&bed.until("kept", "Serving").await), kept);
    println!("definitions installed again -> Topic Ready: {:.1?}", installed.elapsed());
    assert!(installed.elapsed() < backoff::MOST + Duration::from_secs(4), "{:?}", installed.elapsed());
    assert_eq!(uid_of(&bed.until("dropped", "Serving").await), dropped);
    // The same with the hubs' definition: the volume's claim stays and asks whose it is.
    let old = bed.hubs().get("hub").await.unwrap();
    let id = old.status.clone().unwrap().hub_id.unwrap();
    delete_definition(&bed, "hubs.tidegate.dev").await;
    assert!(bed.event("hub", "Kept").await.contains(&format!("spec.restoreFrom.hubId: {id}")));
    bed.until("kept", "HubNotFound").await;
    install_definitions(&bed.client).await;
    let new = bed.hub("hub").await;
    assert_ne!(new.uid(), old.uid());
    let problem = bed.hub_says("Degraded", "True", "VolumeOfAnotherHub").await;
    assert!(problem.contains(&id), "{problem}");
    let spec = json!({"objectStore": {"s3": {"bucket": "events"}}, "restoreFrom": {"hubId": id}});
    let object = json!({"apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub"}, "spec": spec});
    bed.apply(object).await.unwrap();
    bed.topic("kept", json!({"partitions": 2})).await;
    assert_eq!(uid_of(&bed.until("kept", "Serving").await), kept);
    assert_eq!(living(&broker, "dropped"), dropped);
    operator.stop().await;
    broker.shutdown().await;
}
