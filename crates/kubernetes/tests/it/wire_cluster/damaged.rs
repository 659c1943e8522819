//! Objects that an API server should never return: every request about them ends, within its time limit, in
//! an answer or in one clear error.

use std::{collections::BTreeMap, sync::Arc};

use changeover_core::{
    error::Error,
    ports::{Clusters, Progress, SecretCopies, Workloads},
    spec::{ParameterName, Workload},
};
use changeover_testkit::{
    amount,
    damage::{Damages, assert_clear, damages, paused},
};
use changeover_token::{Digest, Secret};

use super::{
    DEPLOYMENT, EVERYWHERE, EXTERNAL_SECRET, MINUTE, PODS, REPLICA_SETS, SECRET,
    api_server::ApiServer, clusters, everywhere, one, rolling, stamp, subject, syncing, workload,
    written,
};
use proptest::{prelude::*, sample::select, test_runner::Config};
use tokio::time::Instant;

proptest! {
    #![proptest_config(Config { cases: amount::cases(300), failure_persistence: None, ..Config::default() })]

    #[test]
    fn wait_for_damaged_object_respects_deadline(
        object in select(vec![
            DEPLOYMENT.to_owned(),
            EXTERNAL_SECRET.to_owned(),
            EVERYWHERE.to_owned(),
            SECRET.to_owned(),
            format!("{REPLICA_SETS}/old"),
            format!("{PODS}/old-1"),
        ]),
        damages in damages(),
    ) {
        paused().block_on(asked_about(&object, &damages));
    }
}

async fn asked_about(object: &str, damages: &Damages) {
    let server = ApiServer::new();
    rolling::begun(&server);
    syncing::external_secret(&server);
    syncing::cluster_external_secret(&server);
    syncing::synced_to(&server, "2-b", "new");
    let good = server.object(object);
    let mut damaged = good.clone();
    damages.befall(&mut damaged);
    if damaged["metadata"].is_object() {
        // An API server always knows which object it returns.
        for known in ["name", "namespace", "resourceVersion"] {
            damaged["metadata"][known] = good["metadata"][known].clone();
        }
        server.replace(object, damaged);
    }
    let began = Instant::now();
    ask_everything(&server).await;
    // Three waits of a minute each, and calls that are tried again.
    assert!(began.elapsed() < MINUTE * 5, "it took {:?}", began.elapsed());
}

async fn ask_everything(server: &Arc<ApiServer>) {
    let clusters = clusters(server);
    let workload = workload();
    let parameters = [ParameterName::parse("/backend/token").expect("a name")];
    let intended = BTreeMap::from([(parameters[0].clone(), Digest::of("new"))]);
    let refresh = async |workload: &Workload| {
        one(clusters.refresh(&[workload], "force", &intended, MINUTE).await)
    };

    let published = parameters.iter().cloned().collect();
    for finding in clusters.examine(&[subject(&workload, &parameters)], &published).await.findings {
        assert!(finding.reason.len() < 2_000 && !finding.fix.is_empty(), "{finding:?}");
    }
    clear(clusters.inspect(&subject(&workload, &parameters)).await.map(drop));
    clear(refresh(&workload).await.map(|it| it.map_or((), said)));
    clear(clusters.secret_revision(&workload, &parameters).await.map(drop));
    clear(clusters.stamp(&workload, &stamp(8)).await.map(drop));
    clear(one(clusters.rolled_out(&[&workload], &stamp(8), MINUTE).await).map(said));
    clear(clusters.editors(&workload).await.map(drop));

    let kept = everywhere();
    clear(clusters.inspect(&subject(&kept, &parameters)).await.map(drop));
    clear(refresh(&kept).await.map(|it| it.map_or((), said)));
    let written = written();
    clear(clusters.inspect(&subject(&written, &parameters)).await.map(drop));
    let value = Secret::verbatim("new".to_owned());
    clear(clusters.write_secret(&written, &stamp(8), &value).await.map(said));
    clear(clusters.secret_revision(&written, &[]).await.map(drop));
}

/// Asserts that the description of a held or awaited object fits a log line.
fn said<T>(progress: Progress<T>) {
    match progress {
        Progress::Done(_) | Progress::Ahead(_) => {}
        Progress::UnderWay(awaited) => assert!(awaited.len() < 2_000, "{awaited}"),
        Progress::Stuck(held) => assert!(held.reason.len() < 2_000, "{held:?}"),
    }
}

fn clear(asked: Result<(), Error>) {
    if let Err(error) = asked {
        assert_clear(&error);
    }
}
