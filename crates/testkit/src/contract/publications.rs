//! Guarantees of the publications port.

use changeover_core::{
    ports::{StoredValue, Written},
    spec::{Publication, Side},
};
use changeover_token::{AcceptedForm, Content, Fence};

use super::Stores;
use crate::sample::{accepted, fence, life, presented, under};

impl Stores {
    async fn wrote(&self, publication: &Publication, view: &Content) -> Written {
        let written = self.publications.write(publication, None, view).await;
        written.unwrap_or_else(|error| panic!("{}", error.error))
    }

    async fn holding(&self, publication: &Publication, side: Side) -> Option<StoredValue> {
        let holding = self.publications.read(&publication.place, side).await;
        holding.unwrap_or_else(|error| panic!("{error}"))
    }
}

pub async fn hold_nothing_before_the_first_write(stores: &Stores) {
    for place in [stores.parameter("nothing"), stores.item("nothing")] {
        for side in Side::BOTH {
            assert!(stores.holding(&place, side).await.is_none());
        }
    }
}

pub async fn read_back_the_bytes_that_were_written(stores: &Stores) {
    let token = stores.token("back");
    let views = [
        ("presented", Side::Presenters, presented(&token, 5, "ds_s3cret")),
        ("accepted", Side::Verifiers, accepted(&token, 5)),
    ];
    for (name, side, view) in views {
        for form in [AcceptedForm::Digests, AcceptedForm::Plain] {
            let name = format!("back-{name}-{form:?}");
            for place in [stores.parameter(&name), stores.item(&name)] {
                let place = Publication { form, ..place };
                let written = stores.wrote(&place, &view).await;
                assert!(!written.unanswered);
                let holding = stores.holding(&place, side).await.expect("a view");
                assert_eq!(holding.value.expose(), view.bytes(form).expose());
                assert_eq!(holding.store_version, written.store_version);
            }
        }
    }
}

pub async fn give_each_version_of_a_parameter_a_number(stores: &Stores) {
    let (token, place) = (stores.token("number"), stores.parameter("number"));
    let first = stores.wrote(&place, &presented(&token, 1, "one")).await;
    let second = stores.wrote(&place, &presented(&token, 2, "two")).await;
    assert_eq!((first.store_version, second.store_version), (1, 2));
}

pub async fn keep_the_key_of_a_parameter(stores: &Stores) {
    let (token, place) = (stores.token("key"), stores.parameter("key"));
    let first = stores.wrote(&place, &presented(&token, 1, "one")).await;
    let again = stores.wrote(&place, &presented(&token, 2, "two")).await;
    assert!(first.key.is_some());
    assert_eq!(first.key, again.key);
    let third = presented(&token, 3, "three");
    let third = stores.publications.write(&place, first.key.as_deref(), &third).await;
    assert_eq!(third.expect("written").key, first.key);
}

pub async fn refuse_a_late_write_where_they_can_fence(stores: &Stores) {
    let (token, place) = (stores.token("late"), stores.item("late"));
    let view = presented(&token, 5, "newer");
    stores.wrote(&place, &view).await;
    let late = presented(&token, 4, "older");
    let error = stores.publications.write(&place, None, &late).await.expect_err("overtaken");
    assert_eq!((error.ahead, error.unanswered), (Some(fence(5)), false), "{}", error.error);
    let holding = stores.holding(&place, Side::Presenters).await.expect("a view");
    assert_eq!((holding.value.expose(), holding.store_version), ("newer", 5));
}

pub async fn take_what_an_older_record_wrote(stores: &Stores) {
    let older = Fence { life: Some(life(-60)), revision: 4_000 };
    for (name, older) in [("older-life", older), ("older-bare", Fence::bare(4_000))] {
        let (token, place) = (stores.token(name), stores.item(name));
        stores.wrote(&place, &under(older, presented(&token, 0, "older"))).await;
        stores.wrote(&place, &under(older, accepted(&token, 0))).await;
        stores.wrote(&place, &presented(&token, 5, "ours")).await;
        stores.wrote(&place, &accepted(&token, 6)).await;
        for (side, expected) in [(Side::Presenters, fence(5)), (Side::Verifiers, fence(6))] {
            let holding = stores.holding(&place, side).await.expect("a view");
            assert_eq!(holding.fence, Some(expected));
        }
    }
}

pub async fn refuse_what_a_newer_record_wrote(stores: &Stores) {
    let newer = Fence { life: Some(life(60)), revision: 1 };
    for (name, ours) in [("newer", fence(4_000)), ("newer-bare", Fence::bare(4_000))] {
        let (token, place) = (stores.token(name), stores.item(name));
        stores.wrote(&place, &under(newer, presented(&token, 0, "newer"))).await;
        stores.wrote(&place, &under(newer, accepted(&token, 0))).await;
        for view in [presented(&token, 0, "ours"), accepted(&token, 0)] {
            let view = under(ours, view);
            let error = stores.publications.write(&place, None, &view).await.expect_err("refused");
            assert_eq!(error.ahead, Some(newer));
        }
        let holding = stores.holding(&place, Side::Presenters).await.expect("a view");
        assert_eq!(holding.value.expose(), "newer");
    }
}

pub async fn take_the_same_view_again(stores: &Stores) {
    let token = stores.token("again");
    let view = presented(&token, 5, "ds_s3cret");
    for place in [stores.parameter("again"), stores.item("again")] {
        stores.wrote(&place, &view).await;
        stores.wrote(&place, &view).await;
        let holding = stores.holding(&place, Side::Presenters).await.expect("a view");
        assert_eq!(holding.value.expose(), "ds_s3cret");
    }
}

pub async fn hold_both_views_in_one_item(stores: &Stores) {
    let (token, place) = (stores.token("both"), stores.item("both"));
    let (displayed_value, known) = (presented(&token, 9, "ds_s3cret"), accepted(&token, 2));
    stores.wrote(&place, &displayed_value).await;
    stores.wrote(&place, &known).await;
    for (side, view) in [(Side::Presenters, displayed_value), (Side::Verifiers, known)] {
        let holding = stores.holding(&place, side).await.expect("a view");
        assert_eq!(holding.value.expose(), view.bytes(AcceptedForm::Digests).expose());
        assert_eq!(holding.fence, Some(view.fence()), "each view has its own fence");
        assert_eq!(holding.token.as_ref(), Some(&token));
    }
}

pub async fn refuse_another_tokens_item(stores: &Stores) {
    let place = stores.item("another");
    let (ours, theirs) = (stores.token("ours"), stores.token("theirs"));
    stores.wrote(&place, &presented(&theirs, 1, "theirs")).await;
    for view in [presented(&ours, 5, "ours"), accepted(&ours, 5)] {
        let error = stores.publications.write(&place, None, &view).await.expect_err("refused");
        assert!(error.ahead.is_none() && !error.unanswered);
    }
    let holding = stores.holding(&place, Side::Presenters).await.expect("a view");
    assert_eq!(holding.value.expose(), "theirs");
}

pub async fn move_a_label(stores: &Stores) {
    let (token, place) = (stores.token("label"), stores.parameter("label"));
    let view = presented(&token, 1, "one");
    for version in [1, 2] {
        stores.wrote(&place, &view).await;
        for _ in 0..2 {
            let put = stores.publications.label(&place.place, "current", version).await;
            let put = put.unwrap_or_else(|error| panic!("{}", error.error));
            assert_eq!((put.store_version, put.unanswered), (version, false));
        }
        let labelled = stores.publications.labelled(&place.place, "current").await;
        assert_eq!(labelled, Ok(Some(version)));
    }
    assert_eq!(stores.publications.labelled(&place.place, "previous").await, Ok(None));
    let absent = stores.publications.label(&place.place, "current", 9).await;
    let absent = absent.expect_err("there is no such version");
    assert!(absent.is_gone && !absent.unanswered);
    let nowhere = stores.parameter("never-written");
    assert_eq!(stores.publications.labelled(&nowhere.place, "current").await, Ok(None));
    let absent = stores.publications.label(&nowhere.place, "current", 1).await;
    assert!(absent.expect_err("there is no such parameter").is_gone);
}

pub async fn have_no_labels_on_items(stores: &Stores) {
    let place = stores.item("label");
    let put = stores.publications.label(&place.place, "current", 5).await;
    assert!(!put.unwrap_or_else(|error| panic!("{}", error.error)).unanswered);
    assert_eq!(stores.publications.labelled(&place.place, "current").await, Ok(None));
    assert!(stores.holding(&place, Side::Presenters).await.is_none());
}
