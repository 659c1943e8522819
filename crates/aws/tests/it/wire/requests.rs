//! Requests to AWS, counted when they are sent.

use serde_json::json;

use changeover_testkit_aws::{Answer, Wire, ok};

#[tokio::test(start_paused = true)]
async fn requests_are_counted_including_retries() {
    let parameter = json!({"Parameter": {"Name": "/a", "Type": "String", "Value": "{}"}});
    let wire = Wire::script([Answer::Lost, ok(parameter)]);
    let aws = wire.aws();
    assert_eq!(aws.requests(), 0);
    for _ in 0..2 {
        aws.ssm().get_parameter().name("/a").send().await.expect("an answer");
    }
    assert_eq!((aws.requests(), wire.calls().len()), (3, 3));
}
