//! Watches survive broken connections, lost positions and expired identities, and miss no event.

use std::{sync::Arc, time::Duration};

use changeover_core::{
    error::{Error, Kind},
    ports::{Progress, Workloads},
};

use super::{
    PODS, all_wait,
    api_server::{ApiServer, Fault, Recorded},
    clusters, one,
    rolling::{gone, replaced, rolling, status},
    stamp, workload,
};
use tokio::time::{Instant, sleep};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/web/deployments";
const HOUR: Duration = Duration::from_secs(60 * 60);

async fn rolled_out(server: &Arc<ApiServer>) -> Result<Progress<()>, Error> {
    one(clusters(server).rolled_out(&[&workload()], &stamp(7), HOUR).await)
}

/// Runs a rollout while `happens` runs, and returns the delay between its end and the result.
async fn noticed_after(server: &Arc<ApiServer>, happens: impl Future<Output = ()>) -> Duration {
    let happens = async {
        all_wait().await;
        happens.await;
        Instant::now()
    };
    let noticed = async { (rolled_out(server).await.unwrap(), Instant::now()) };
    let ((progress, noticed_at), happened_at) = tokio::join!(noticed, happens);
    assert_eq!(progress, Progress::Done(()));
    noticed_at - happened_at
}

/// Makes the next watch of deployments fail with this fault.
async fn spoil(server: &ApiServer, fault: Fault) {
    server.fail([fault]);
    // Ends the current watch.
    status(server, 2, 0, 1);
    all_wait().await;
}

fn lists(server: &ApiServer) -> Vec<Recorded> {
    let is_list = |it: &Recorded| {
        [DEPLOYMENTS, PODS].contains(&it.path.as_str()) && !it.query.contains("watch=true")
    };
    server.requests().into_iter().filter(is_list).collect()
}

#[tokio::test(start_paused = true)]
async fn broken_connection_within_event_loses_no_event() {
    let server = rolling();
    let late = noticed_after(&server, async {
        spoil(&server, Fault::Cut).await;
        replaced(&server);
        gone(&server);
    });
    assert!(late.await < Duration::from_secs(1));
    assert_eq!(lists(&server).len(), 3, "two, and a last look at the pods");
}

#[tokio::test(start_paused = true)]
async fn stalled_stream_is_reopened_within_a_minute() {
    let server = rolling();
    let late = noticed_after(&server, async {
        spoil(&server, Fault::Stall).await;
        replaced(&server);
        gone(&server);
    });
    assert_eq!(late.await.as_secs(), 60);
    assert_eq!(lists(&server).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn trickling_event_is_awaited_but_list_is_retried() {
    let server = rolling();
    let late = noticed_after(&server, async {
        spoil(&server, Fault::Trickle(Duration::from_secs(5))).await;
        replaced(&server);
        gone(&server);
    });
    assert_eq!(late.await.as_secs(), 50);
    assert_eq!(lists(&server).len(), 3);

    let server = rolling();
    replaced(&server);
    gone(&server);
    server.fail([Fault::Trickle(Duration::from_secs(5))]);
    let began = Instant::now();
    assert_eq!(rolled_out(&server).await.unwrap(), Progress::Done(()));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn bookmark_survives_forgotten_history() {
    let server = rolling();
    noticed_after(&server, async {
        for _ in 0..3 {
            server.bookmark(&[DEPLOYMENTS, PODS]);
            all_wait().await;
            server.compact();
            sleep(Duration::from_secs(100)).await;
        }
        replaced(&server);
        gone(&server);
    })
    .await;
    assert_eq!(lists(&server).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_respected() {
    for (code, seconds) in [(429, 20), (503, 8), (429, 3600)] {
        let server = rolling();
        noticed_after(&server, async {
            spoil(&server, Fault::NotBefore(code, seconds)).await;
            replaced(&server);
            gone(&server);
        })
        .await;
        let asked: Vec<_> =
            server.requests().into_iter().filter(|it| it.path == DEPLOYMENTS).collect();
        let pauses = asked.windows(2).map(|two| two[1].at - two[0].at);
        let longest = pauses.max().unwrap().as_secs();
        assert_eq!(longest, u64::from(seconds.min(32)), "{code} {seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn call_honours_retry_after_or_gives_up() {
    let server = rolling();
    server.fail([Fault::NotBefore(429, 7)]);
    let began = Instant::now();
    assert_eq!(clusters(&server).stamp(&workload(), &stamp(8)).await, Ok(Some(Progress::Done(()))));
    assert_eq!(began.elapsed().as_secs(), 7);

    server.fail([Fault::NotBefore(429, 30)]);
    let began = Instant::now();
    let error = clusters(&server).stamp(&workload(), &stamp(9)).await.unwrap_err();
    assert_eq!((error.kind, began.elapsed().as_secs()), (Kind::Throttled, 0));
}

#[tokio::test(start_paused = true)]
async fn absent_server_is_reported_by_cluster_name() {
    let server = rolling();
    let breaking = async {
        all_wait().await;
        server.fail((0..12).map(|_| Fault::Status(503)));
        status(&server, 2, 0, 1);
    };
    let (progress, ()) = tokio::join!(rolled_out(&server), breaking);
    let error = progress.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.on.as_ref().unwrap().ends_with("of cluster prod"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn restarted_servers_refusal_is_retried() {
    let server = rolling();
    noticed_after(&server, async {
        server.fail([503, 403, 403].map(Fault::Status));
        spoil(&server, Fault::Status(403)).await;
        sleep(Duration::from_secs(30)).await;
        replaced(&server);
        gone(&server);
    })
    .await;
    server.fail([503, 403].map(Fault::Status));
    assert_eq!(clusters(&server).stamp(&workload(), &stamp(8)).await, Ok(Some(Progress::Done(()))));
    // A server that keeps forbidding the request is believed.
    server.fail([503, 403, 403, 403].map(Fault::Status));
    let error = clusters(&server).stamp(&workload(), &stamp(9)).await.unwrap_err();
    assert_eq!(error.kind, Kind::AccessDenied);
    assert!(error.fix.contains("grant the verb"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn missing_cluster_is_looked_up_again() {
    let server = rolling();
    noticed_after(&server, async {
        // The second failure in a row makes the client look the cluster up again.
        server.fail([401].map(Fault::Status));
        server.hide(3);
        status(&server, 2, 0, 1);
        sleep(Duration::from_secs(30)).await;
        replaced(&server);
        gone(&server);
    })
    .await;
    server.hide(20);
    assert_eq!(rolled_out(&server).await.unwrap_err().kind, Kind::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn long_wait_sends_no_expired_identity() {
    for every in [Duration::from_secs(5), HOUR] {
        let server = rolling();
        server.identities_end(Duration::from_secs(13 * 60));
        noticed_after(&server, async {
            let began = Instant::now();
            while began.elapsed() < HOUR - Duration::from_secs(60) {
                sleep(every.min(HOUR - Duration::from_secs(60))).await;
                status(&server, 2, 0, 1);
            }
            replaced(&server);
            gone(&server);
        })
        .await;
        assert_eq!(server.connections(), (5, 0), "each identity was replaced before it ended");
    }
}
