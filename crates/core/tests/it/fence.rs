//! Fences: the order of lives and revisions, and their text form.

use changeover_testkit::sample::at;
use changeover_token::{Fence, Life};
use jiff::{SignedDuration, Timestamp};
use proptest::{option, prelude::*};

fn any_life() -> impl Strategy<Value = Life> {
    // Times from 2000 to 3000, and often the same moment.
    let created_ms = prop_oneof![946_684_800_000..32_503_680_000_000_i64, Just(1_793_491_200_000)];
    (created_ms, prop_oneof![any::<u32>(), 0..3_u32]).prop_map(|(created_ms, random)| {
        Life::new(Timestamp::from_millisecond(created_ms).expect("a time"), random)
    })
}

fn any_fence() -> impl Strategy<Value = Fence> {
    let revision = prop_oneof![0..=Fence::LARGEST_REVISION, 0..20_u64];
    (option::weighted(0.8, any_life()), revision)
        .prop_map(|(life, revision)| Fence { life, revision })
}

proptest! {
    #[test]
    fn fence_survives_round_trip_through_text(fence in any_fence()) {
        prop_assert_eq!(fence.to_string().parse(), Ok(fence));
    }

    #[test]
    fn life_text_order_matches_life_order(one in any_life(), other in any_life()) {
        prop_assert_eq!(one.to_string().cmp(&other.to_string()), one.cmp(&other));
        prop_assert_eq!(one.to_string().len(), Life::WIDTH);
    }

    #[test]
    fn life_is_compared_before_revision(one in any_fence(), other in any_fence()) {
        let expected = one.life.cmp(&other.life).then(one.revision.cmp(&other.revision));
        prop_assert_eq!(one.cmp(&other), expected);
    }

    #[test]
    fn only_canonical_fence_text_is_parsed(text in "[0-9a-f+. ]{0,32}") {
        if let Ok(fence) = text.parse::<Fence>() {
            prop_assert_eq!(fence.to_string(), text);
        }
    }
}

#[test]
fn absent_life_is_the_lowest() {
    let first = Fence { life: Some(Life::new(at(0), 0)), revision: 0 };
    assert!(Fence::bare(Fence::LARGEST_REVISION) < first);
}

#[test]
fn stamps_of_earlier_versions_are_read() {
    assert_eq!("20".parse(), Ok(Fence::bare(20)));
    for text in ["", "-1", "+7", "007", "7.", ".7", "4503599627370497", "18446744073709551615"] {
        assert!(text.parse::<Fence>().is_err(), "{text}");
    }
}

#[test]
fn new_life_exceeds_life_from_fast_clock() {
    let ours = Life::new(at(0), 7);
    let minute_ahead = Life::new(at(60), u32::MAX);
    assert!(ours.above(Some(minute_ahead)) > minute_ahead);
    assert_eq!(ours.above(Some(Life::new(at(-60), 9))), ours);
    assert_eq!(ours.above(None), ours);
    // A life of next year is no clock that is ahead. It is left for a person to resolve.
    let year_ahead = Life::new(at(365 * 24 * 3600), 0);
    assert_eq!(ours.above(Some(year_ahead)), ours);
}

#[test]
fn least_revision_grows_with_record_age() {
    let life = Life::new(at(0), 7);
    assert_eq!(life.least_revision(at(0)), 0);
    assert_eq!(life.least_revision(at(-5)), 0, "a clock that went back");
    assert_eq!(life.least_revision(at(1)), 10);
    let thirty_years = at(0) + SignedDuration::from_hours(30 * 365 * 24);
    assert!(life.least_revision(thirty_years) < 10_000_000_000, "ten digits, as feeds are sorted");
}
