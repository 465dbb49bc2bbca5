//! Whether the engine reads a Dockerfile as it was read here.

use super::{Plan, first_word};
use crate::engine::BuildStep;

const FROM: &str = "FROM";

impl Plan {
    /// Checks an instruction that the engine starts against the file.
    ///
    /// # Errors
    /// A sentence, when the engine reads the file otherwise.
    pub(crate) fn check_step(&self, step: &BuildStep) -> Result<(), String> {
        let word = first_word(&step.text).to_ascii_uppercase();
        let is_as_read = match step.stage {
            None => is_at(&self.keywords, step.number, step.of, &word),
            Some(stage) => self.is_in_stage(stage, step, &word),
        };
        if is_as_read {
            return Ok(());
        }
        Err(format!(
            "the engine reads the Dockerfile otherwise than the platform (its step {} of {} is {word}), so what it may use is not known; put each instruction on separate lines",
            step.number, step.of
        ))
    }

    /// The same for an engine that counts within stages, where what a base's `ONBUILD` adds is
    /// counted, too, right after the `FROM`.
    fn is_in_stage(&self, (stage, of): (usize, usize), step: &BuildStep, word: &str) -> bool {
        let starts = self.keywords.iter().enumerate();
        let starts = starts.filter(|(_, keyword)| *keyword == FROM);
        let starts: Vec<usize> = starts.map(|(at, _)| at).collect();
        let Some(&start) = stage.checked_sub(1).and_then(|nth| starts.get(nth)) else {
            return false;
        };
        let end = starts.get(stage).copied().unwrap_or(self.keywords.len());
        let own = &self.keywords[start..end];
        let Some(added) = step.of.checked_sub(own.len()) else {
            return false;
        };
        if of != starts.len() || added > self.triggers.len() {
            return false;
        }
        match step.number {
            1 => word == FROM,
            number if number <= 1 + added => self.triggers.iter().any(|known| known == word),
            number => is_at(own, number - added, own.len(), word),
        }
    }
}

/// Whether the instruction of this number, from 1, of so many begins with the word.
fn is_at(keywords: &[String], number: usize, of: usize, word: &str) -> bool {
    let at = number.checked_sub(1).and_then(|at| keywords.get(at));
    of == keywords.len() && at.is_some_and(|keyword| keyword == word)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(file: &str) -> Plan {
        Plan::read(file.as_bytes(), &BTreeMap::new()).expect("a Dockerfile")
    }

    fn step(stage: Option<(usize, usize)>, (number, of): (usize, usize), text: &str) -> BuildStep {
        BuildStep {
            stage,
            number,
            of,
            text: text.to_owned(),
        }
    }

    #[test]
    fn an_engine_that_reads_otherwise_is_noticed() {
        let plan = read("ARG A\nfrom x\nRUN echo a\n");
        let (whole, only) = (None, Some((1, 1)));
        for (stage, at, text) in [
            (whole, (1, 3), "ARG A"),
            (whole, (2, 3), "FROM x"),
            (whole, (3, 3), "RUN echo a"),
            (only, (1, 2), "from x"),
            (only, (2, 2), "RUN echo a"),
        ] {
            assert_eq!(plan.check_step(&step(stage, at, text)), Ok(()), "{text}");
        }
        for (stage, at, text) in [
            (whole, (1, 4), "ARG A"),
            (whole, (3, 3), "FROM beef"),
            (whole, (4, 3), "RUN a"),
            (whole, (0, 3), "RUN a"),
            (only, (0, 2), "FROM x"),
            (only, (1, 3), "FROM x"),
            (only, (3, 2), "RUN echo a"),
            (only, (2, 2), "COPY a b"),
            (Some((1, 2)), (1, 2), "FROM x"),
            (Some((2, 1)), (1, 2), "FROM x"),
            (Some((0, 1)), (1, 2), "FROM x"),
        ] {
            let step = step(stage, at, text);
            assert!(plan.check_step(&step).is_err(), "{step:?}");
        }
    }

    #[test]
    fn a_stage_is_counted_with_what_its_base_adds() {
        let mut plan = read("FROM x AS a\nRUN a\nFROM y\nCOPY --from=a /a /a\nENV a=b\n");
        plan.add_triggers("y", &["ADD b /b".to_owned(), "RUN c".to_owned()])
            .expect("read");
        let (first, second) = (Some((1, 2)), Some((2, 2)));
        for (stage, at, text) in [
            (first, (1, 2), "FROM x AS a"),
            (first, (2, 2), "RUN a"),
            (second, (1, 3), "FROM y"),
            (second, (2, 5), "ADD b /b"),
            (second, (3, 5), "RUN c"),
            (second, (4, 5), "COPY --from=a /a /a"),
            (second, (5, 5), "ENV a=b"),
        ] {
            assert_eq!(plan.check_step(&step(stage, at, text)), Ok(()), "{text}");
        }
        for (stage, at, text) in [
            (second, (2, 5), "COPY --from=beef / /"),
            (second, (4, 6), "COPY --from=a /a /a"),
            (second, (3, 3), "COPY --from=beef / /"),
            (second, (1, 3), "RUN a"),
        ] {
            let step = step(stage, at, text);
            assert!(plan.check_step(&step).is_err(), "{step:?}");
        }
    }
}
