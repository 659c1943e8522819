"""A mistake keeps its place when other code is edited, and is reported as moved when its own expression is."""

import unittest
from pathlib import PurePosixPath
from textwrap import dedent

from planting import Change, Moved, planted

RUST = dedent(
    """\
    use jiff::Timestamp;

    const NAMES: [&str; 2] = ["one", "two"];

    /// What is kept.
    #[derive(Clone)]
    #[serde(deny_unknown_fields)]
    pub struct Record {
        revision: u64,
    }

    impl Record {
        pub(crate) async fn settle<T>(
            &self,
            workload: &T,
        ) -> u64
        where
            T: Clone,
        {
            let wait = self.synced_at(workload, side) + workload.settle;

            match workload {
                // A comment that holds Leg::Expand.
                Leg::Expand => {
                    self.check(now);
                }
                Leg::Migrate => {
                    self.check(now);
                }
            }
        }

        fn next(&self) -> u64 {
            self.check(now)
        }
    }

    impl fmt::Debug for Record {
        fn fmt(&self) {
            write(REDACTED)
        }
    }

    impl fmt::Display for Record {
        fn fmt(&self) {
            write(REDACTED)
        }
    }
    """
)
PYTHON = dedent(
    """\
    LIMIT = 3


    class Load:
        @property
        def seconds(
            self,
        ) -> int:
            # A comment that holds self.first.
            return self.last - self.first

        def read(self) -> None:
            self.last = LIMIT


    def read() -> None:
        if ready:
            start()
    """
)
YAML = dedent(
    """\
    Parameters:
      Table:
        Default: Retain
    Resources:
      Table:
        DeletionPolicy: Retain
        Properties:
          Statement:
            - Sid: Seal
              Resource: "*"
              Condition:
                StringEquals: {"scope": !Ref Scope}

            - Sid: Open
              Resource: "*"
    """
)
TERRAFORM = dedent(
    """\
    variable "kind" {
      default = "rule"
      validation {
        condition = contains(["rule", "scheduler"], var.kind)
      }
    }

    variable "kind_of_clock" {
      default = "rule"
    }
    """
)
JSON = dedent(
    """\
    {
      "sweep": {
        "action": "sweep"
      },
      "rotate": {
        "action": "rotate"
      }
    }
    """
)


class Place(unittest.TestCase):
    def plant(self, text: str, item: str | None, replace: str | None, becomes: str, name: str = "src/record.rs") -> str:
        path = PurePosixPath(name)
        return planted([Change(path.name, item, replace, becomes)], [path], {path: text}.__getitem__)[path]

    def assert_replaced(self, text: str, item: str | None, replaced: str, *others: str, name: str = "src/record.rs") -> None:
        """`replaced` and its other spellings all find the first occurrence of `replaced` in the text."""
        for expression in (replaced, *others):
            with self.subTest(expression=expression):
                self.assertEqual(self.plant(text, item, expression, "<planted>", name), text.replace(replaced, "<planted>", 1))

    def assert_moved(self, text: str, item: str | None, replace: str | None, says: str, name: str = "src/record.rs") -> None:
        with self.assertRaises(Moved) as raised:
            self.plant(text, item, replace, "", name)
        self.assertEqual(str(raised.exception), says)

    def test_item_and_expression_name_it(self):
        self.assert_replaced(RUST, "settle", "self.synced_at(workload, side) + workload.settle")
        self.assert_replaced(RUST, "settle", "T: Clone")

    def test_wrapped_expression_is_the_same(self):
        wrapped = RUST.replace(
            "self.synced_at(workload, side) + workload.settle",
            "self\n            .synced_at(\n                workload,\n                side,\n            )"
            "\n            + workload.settle",
        )
        expression = "self.synced_at(workload, side) + workload.settle"
        self.assertNotIn(expression, wrapped)
        self.assertIn("let wait = <planted>;", self.plant(wrapped, "settle", expression, "<planted>"))

    def test_trailing_comma_is_optional(self):
        for written in ("call(a, [b, c])", "call(\n    a,\n    [b, c,],\n)"):
            text = f"fn outer() {{\n    {written}\n}}\n"
            for expression in ("call(a, [b, c])", "call(a, [b, c],)", "call( a,[b,c,] )"):
                with self.subTest(written=written, expression=expression):
                    self.assertIn("    <planted>\n", self.plant(text, "outer", expression, "<planted>"))

    def test_words_match_whole(self):
        text = "fn outer() {\n    if rolls {}\n    if rolls_back {}\n    notif(rolls)\n}\n"
        self.assert_replaced(text, "outer", "if rolls")
        self.assert_moved(text, "outer", "ifrolls", "src/record.rs's `outer` holds `ifrolls` 0 times")

    def test_edit_above_or_below_moves_nothing(self):
        expression = "self.synced_at(workload, side) + workload.settle"
        for edited in (
            RUST.replace("let wait", "trace();\n\n        let wait"),
            RUST.replace("workload.settle;", "workload.settle;\n        // Waits.\n        trace();"),
            RUST.replace("where\n        T: Clone,\n    {", "{"),
            "mod more;\n" + RUST,
        ):
            self.assertNotEqual(edited, RUST)
            self.assertIn("let wait = <planted>;", self.plant(edited, "settle", expression, "<planted>"))

    def test_comment_between_lines_is_ignored(self):
        text = "fn outer() {\n    first();\n    // Reworded.\n    second();\n}\n"
        self.assertEqual(self.plant(text, "outer", "first(); second();", "third();"), "fn outer() {\n    third();\n}\n")

    def test_changed_expression_is_reported(self):
        self.assert_moved(
            RUST.replace("+ workload.settle", "+ workload.settles"),
            "settle",
            "self.synced_at(workload, side)\n    + workload.settle",
            "src/record.rs's `settle` holds `self.synced_at(workload, side) + workload.settle` 0 times",
        )

    def test_ambiguous_expression_is_reported(self):
        self.assert_moved(RUST, "settle", "self.check(now)", "src/record.rs's `settle` holds `self.check(now)` 2 times")
        self.assert_moved(RUST, None, "REDACTED", "src/record.rs holds `REDACTED` 2 times")

    def test_renamed_item_is_reported(self):
        self.assert_moved(RUST, "settled", "now", "no item `settled` in src/record.rs")

    def test_function_ends_before_the_next(self):
        self.assert_replaced(RUST[RUST.index("fn next") :], "next", "self.check(now)")
        self.assertIn("-> u64 {\n        <planted>", self.plant(RUST, "next", "self.check(now)", "<planted>"))

    def test_arm_of_a_match_is_an_item(self):
        for leg in ("Expand", "Migrate"):
            text = self.plant(RUST, f"settle > Leg::{leg} =>", "self.check(now);", "<planted>")
            self.assertIn(f"Leg::{leg} => {{\n                <planted>", text)

    def test_method_is_found_in_its_type(self):
        self.assertIn("-> u64 {\n        <planted>", self.plant(RUST, "Record::next", "self.check(now)", "<planted>"))
        self.assert_moved(RUST, "Record::fmt", "REDACTED", "src/record.rs's `Record::fmt` holds `REDACTED` 2 times")
        self.assert_moved(RUST, "Other::next", "now", "no item `Other::next` in src/record.rs")

    def test_header_distinguishes_items_of_one_name(self):
        text = self.plant(RUST, "impl fmt::Display for Record > fmt", "REDACTED", "self")
        self.assertIn("Display for Record {\n    fn fmt(&self) {\n        write(self)", text)
        self.assertIn("Debug for Record {\n    fn fmt(&self) {\n        write(REDACTED)", text)

    def test_constants_types_and_attributes_are_found(self):
        self.assert_replaced(RUST, "NAMES", '"one", "two"', '"one","two"')
        self.assert_replaced(RUST, "Record", "#[serde(deny_unknown_fields)]")
        self.assert_replaced(RUST, "Record", "revision: u64,")

    def test_file_is_searched_without_an_item(self):
        self.assert_replaced(RUST, None, "use jiff::Timestamp;")

    def test_python_items_are_found(self):
        self.assert_replaced(PYTHON, "Load.seconds", "self.last - self.first", name="load.py")
        self.assert_replaced(PYTHON, "Load.seconds", "@property", name="load.py")
        self.assert_replaced(PYTHON, "LIMIT", "LIMIT = 3", name="load.py")
        text = self.plant(PYTHON, "Load.read", "LIMIT", "0", "load.py")
        self.assertEqual(text, PYTHON.replace("self.last = LIMIT", "self.last = 0"))

    def test_further_lines_are_indented(self):
        text = self.plant(PYTHON, "read", "start()", "\nif late:\n    wait()\nstart()\n", "load.py")
        self.assertTrue(text.endswith("    if ready:\n        if late:\n            wait()\n        start()\n"), text)

    def test_yaml_keys_and_entries_are_items(self):
        name = "template.yaml"
        text = self.plant(YAML, "Resources: > Table:", "DeletionPolicy: Retain", "DeletionPolicy: Delete", name)
        self.assertEqual(text, YAML.replace("DeletionPolicy: Retain", "DeletionPolicy: Delete"))
        text = self.plant(YAML, "- Sid: Open", 'Resource: "*"', "Resource: none", name)
        self.assertTrue(text.endswith("- Sid: Open\n          Resource: none\n"), text)
        self.assert_moved(YAML, "- Sid: Close", "x", "no item `- Sid: Close` in template.yaml", name)

    def test_terraform_blocks_are_items(self):
        self.assert_replaced(TERRAFORM, 'variable "kind"', 'default = "rule"', 'default   =   "rule"', name="variables.tf")
        condition = 'contains(["rule", "scheduler"], var.kind)'
        self.assert_replaced(TERRAFORM, 'variable "kind" > validation', condition, name="variables.tf")

    def test_json_members_are_items(self):
        text = self.plant(JSON, '"rotate":', '"action": "rotate"', '"action": "drop"', "event.json")
        self.assertEqual(text, JSON.replace('"action": "rotate"', '"action": "drop"'))

    def test_item_is_removed_without_an_expression(self):
        self.assertEqual(self.plant(TERRAFORM, 'variable "kind_of_clock"', None, "", "a.tf").rstrip()[-1], "}")
        self.assertNotIn("kind_of_clock", self.plant(TERRAFORM, 'variable "kind_of_clock"', None, "", "a.tf"))
        self.assertNotIn("Sid: Seal", self.plant(YAML, "- Sid: Seal", None, "", "a.yaml"))
        self.assert_moved(YAML, "Table:", None, "a.yaml has 2 items `Table:`", "a.yaml")


class File(unittest.TestCase):
    def test_end_of_a_path_survives_a_move(self):
        for path in ("src/steps/record.rs", "crates/core/src/steps/record.rs"):
            files = {PurePosixPath(it): RUST for it in (path, "tests/it/record.rs", "src/steps/on_record.rs")}
            results = planted([Change("steps/record.rs", "next", "now", "then")], list(files), files.__getitem__)
            self.assertEqual(list(results), [PurePosixPath(path)])

    def test_one_file_must_match(self):
        files = {PurePosixPath("src/record.rs"): RUST, PurePosixPath("tests/record.rs"): RUST}
        with self.assertRaisesRegex(Moved, "^record.rs is the end of 2 files: src/record.rs, tests/record.rs$"):
            planted([Change("record.rs", "next", "now", "then")], list(files), files.__getitem__)
        with self.assertRaisesRegex(Moved, "^no file cord.rs$"):
            planted([Change("cord.rs", "next", "now", "then")], list(files), files.__getitem__)


class SeveralChanges(unittest.TestCase):
    FILES = {PurePosixPath("a.rs"): "fn outer() {\n    one();\n    two();\n}\n", PurePosixPath("b.rs"): "fn inner() {}\n"}

    def test_places_are_found_before_any_change(self):
        changes = [
            Change("a.rs", "outer", "one();", "two();\none();"),
            Change("a.rs", "outer", "two();", ""),
            Change("b.rs", "inner", "{}", "{ three() }"),
        ]
        self.assertEqual(
            planted(changes, list(self.FILES), self.FILES.__getitem__),
            {
                PurePosixPath("a.rs"): "fn outer() {\n    two();\n    one();\n    \n}\n",
                PurePosixPath("b.rs"): "fn inner() { three() }\n",
            },
        )

    def test_overlap_is_refused(self):
        changes = [Change("a.rs", "outer", "one(); two()", ""), Change("a.rs", "outer", "two()", "")]
        with self.assertRaisesRegex(Moved, "^two of its changes overlap in a.rs$"):
            planted(changes, list(self.FILES), self.FILES.__getitem__)


if __name__ == "__main__":
    unittest.main()
