//! Images and URLs in Dockerfiles, however they are written.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Plan;

fn read(file: &str) -> Plan {
    Plan::read(file.as_bytes(), &BTreeMap::new()).expect(file)
}

fn images(file: &str) -> Vec<String> {
    read(file).images.into_iter().map(|n| n.image).collect()
}

#[test]
fn every_place_that_names_an_image_is_found() {
    let file = "# syntax=front/end:1\nARG V=1\nARG BASE=base\nFROM --platform=linux/amd64 ${BASE}:$V AS Build\nRUN --mount=type=bind,from=mounted,target=/m true\nCOPY --chown=1:1 --from=copied /a /b\nONBUILD COPY --from=later /a /b\nfrom build\ncopy --from=0 /a /b\nCOPY --from=BUILD /a /b\nCOPY --from=\"quoted\" [\"/a\", \"/b\"]\nCOPY --from=7 /a /b\nFROM scratch\nFROM \\\n  # between\n  be\\\nef\n";
    assert_eq!(
        images(file),
        [
            "front/end:1",
            "base:1",
            "mounted",
            "copied",
            "later",
            "quoted",
            "7",
            "beef"
        ]
    );
    assert_eq!(read(file).images[1].place, "FROM at line 4");
}

#[test]
fn build_arguments_and_their_defaults_count() {
    let file = "ARG A=x\nARG B\nFROM ${B:-$A}\n";
    let with = |args: &[(&str, &str)]| {
        let args = args.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let plan = Plan::read(file.as_bytes(), &args.collect()).expect("valid");
        plan.images[0].image.clone()
    };
    assert_eq!(with(&[]), "x");
    assert_eq!(with(&[("A", "y")]), "y");
    assert_eq!(with(&[("B", "beef")]), "beef");
    // An argument within a stage does not apply to its FROM.
    assert_eq!(images("FROM a\nARG X=beef\nFROM b$X"), ["a", "b"]);
}

#[test]
fn what_cannot_be_told_for_certain_is_refused() {
    for bad in [
        "",
        "RUN true",
        "ARG A=1",
        "FROM a\nNONSENSE b",
        "ARG http_proxy\nFROM ${http_proxy:+beef}",
        "FROM ${A#x}",
        "FROM a\nCOPY --from=$A /a /b",
        "FROM a\nCOPY --fr\\om=beef /a /b",
        "FROM a\nCOPY --chown=\"a b\" --from=beef /a /b",
        "FROM a\nRUN <<EOF\nFROM beef\nEOF",
        "FROM a\nCOPY <<EOF /x\nFROM beef\nEOF",
        "FROM a\nRUN true \\\\\nFROM beef",
        &format!("FROM a\nENV A=xx\n{}", "ENV A=$A$A\n".repeat(30)),
        "FROM a\nCOPY \u{a0}--from=beef /a /b",
        "FROM a\nADD [\"http://h/\\ud800\", \"/x\"]",
    ] {
        let plan = Plan::read(bad.as_bytes(), &BTreeMap::new());
        assert!(plan.is_err(), "{bad:?} {plan:?}");
    }
}

#[test]
fn urls_are_found_also_where_a_variable_may_hide_one() {
    let urls = |file: &str| read(file).urls.len();
    for url in [
        "ADD http://127.0.0.1:1/x /x",
        "add --chown=1 HTTPS://h/x /x",
        "ADD a $URL /x",
        "ADD \"${S}://h/x\" /x",
        "ADD ht${X}tp://h/x /x",
        "ADD h\\ttp://h/x /x",
        "ADD [\"http://h/x\", \"/x\"]",
        "ONBUILD ADD http://h/x /x",
    ] {
        assert_eq!(urls(&format!("FROM a\n{url}\n")), 1, "{url}");
    }
    for file in [
        "ADD a b /x",
        "ADD app-$VERSION.tar.gz /x",
        "ADD ./$NAME /x",
        "ADD . /x",
        "COPY http /x",
    ] {
        assert_eq!(urls(&format!("FROM a\n{file}\n")), 0, "{file}");
    }
}

#[test]
fn images_are_pinned_where_they_stand() {
    let plan = read(
        "# syntax=s\nARG A=a\nFROM $A:1 \\\n AS b\nFROM a:1\nCOPY --from=c --chown=1 /a /a:1\nRUN a:1\n",
    );
    let pins = [("a:1", "a@sha256:1"), ("c", "c@sha256:2")];
    let pins = pins.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert_eq!(
        plan.pinned(&pins),
        "ARG A=a\nFROM a@sha256:1  AS b\nFROM a@sha256:1\nCOPY --from=c@sha256:2 --chown=1 /a /a:1\nRUN a:1\n"
    );
}

#[test]
fn triggers_of_a_base_count_as_what_stands_in_the_file() {
    let mut plan = read("FROM x AS one\nFROM y");
    let triggers = [
        "COPY --from=one /a /b",
        "COPY --from=beef /a /b",
        "ADD http://h/ /x",
    ];
    plan.add_triggers("y", &triggers.map(str::to_owned))
        .expect("read");
    assert_eq!(plan.images.last().expect("one").image, "beef");
    assert_eq!(plan.images.len(), 3);
    assert_eq!(plan.urls[0].place, "ONBUILD of \"y\"");
}

proptest! {
    /// A prefix of an id is found however the line that names it is laid out.
    #[test]
    fn no_layout_hides_a_name(
        digits in "[0-9a-f]{2,12}",
        cut in 0usize..12,
        keyword in prop::sample::select(vec!["FROM", "from", "FrOm"]),
        gap in prop::sample::select(vec![" ", "\t", "   ", " \\\n", " \\ \t\n#x\n\n "]),
        form in 0usize..4,
    ) {
        // Neither part is empty: an empty end would join the next line.
        let at = cut.min(digits.len() - 1);
        let (a, b) = digits.split_at(at);
        let name = match form {
            0 => digits.clone(),
            1 => format!("{a}\\\n{b}"),
            2 => format!("{a}\"{b}\""),
            _ => format!("{a}${{X:-{b}}}"),
        };
        let file = format!("ARG X\nFROM y AS s\nCOPY --from=y /a /b\n{keyword}{gap}{name}\nRUN true\n");
        let plan = Plan::read(file.as_bytes(), &BTreeMap::new()).expect("valid");
        prop_assert_eq!(&plan.images.last().expect("one").image, &digits);
    }

    /// No input makes it panic or run away.
    #[test]
    fn any_text_is_read_or_refused(text in "(FROM|COPY|RUN|ARG|ADD|ONBUILD|[ \\\\\n\"'$`{}=#<\\[\\],:-]|--from|a|[\u{80}-\u{200}]){0,60}") {
        let _ = Plan::read(text.as_bytes(), &BTreeMap::new());
    }
}
