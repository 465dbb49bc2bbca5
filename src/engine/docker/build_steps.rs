//! The lines that engines print as they start an instruction of a build: Docker `Step 2/5 : RUN make`,
//! counted over the whole file, Podman `STEP 2/5: RUN make`, or of several stages
//! `[1/2] STEP 2/3: RUN make`, counted within the stage.

use crate::engine::{BuildEvent, BuildStep};

/// Recognizes these lines. Whoever printed the first of a build prints all of them, and a line in
/// the other words comes from a command: before the first step, no command runs.
#[derive(Debug, Default)]
pub(super) struct Announcements(Option<Words>);

#[derive(Debug, Clone, Copy)]
enum Words {
    Docker,
    Podman,
}

impl Announcements {
    /// The event, as a step where it is one.
    pub(super) fn read(&mut self, event: BuildEvent) -> BuildEvent {
        let BuildEvent::Output(text) = &event else {
            return event;
        };
        let step = match self.0 {
            Some(Words::Docker) => docker(text),
            Some(Words::Podman) => podman(text),
            None => {
                let (by_docker, by_podman) = (docker(text), podman(text));
                self.0 = match (&by_docker, &by_podman) {
                    (Some(_), _) => Some(Words::Docker),
                    (None, Some(_)) => Some(Words::Podman),
                    (None, None) => None,
                };
                by_docker.or(by_podman)
            }
        };
        step.map_or(event, BuildEvent::Step)
    }
}

fn docker(text: &str) -> Option<BuildStep> {
    let (counted, instruction) = text.strip_prefix("Step ")?.split_once(" : ")?;
    step(None, counted, instruction)
}

fn podman(text: &str) -> Option<BuildStep> {
    let (stage, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (stage, rest) = rest.split_once("] ")?;
            (fraction(stage)?, rest)
        }
        None => ((1, 1), text),
    };
    let (counted, instruction) = rest.strip_prefix("STEP ")?.split_once(": ")?;
    step(Some(stage), counted, instruction)
}

fn step(stage: Option<(usize, usize)>, counted: &str, instruction: &str) -> Option<BuildStep> {
    let (number, of) = fraction(counted)?;
    Some(BuildStep {
        stage,
        number,
        of,
        text: instruction.trim_end().to_owned(),
    })
}

fn fraction(text: &str) -> Option<(usize, usize)> {
    let (part, whole) = text.split_once('/')?;
    Some((part.parse().ok()?, whole.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<String> {
        let mut announcements = Announcements::default();
        let each = lines.iter().map(|line| {
            match announcements.read(BuildEvent::Output((*line).to_owned())) {
                BuildEvent::Step(step) => step.to_string(),
                BuildEvent::Output(text) => format!("said {text:?}"),
                other => format!("{other:?}"),
            }
        });
        each.collect()
    }

    #[test]
    fn steps_are_read_in_the_words_of_the_first_alone() {
        assert_eq!(
            read(&["Step 1/2 : FROM x", " ---> 1", "STEP 2/2: RUN a\n"]),
            [
                "Step 1/2 : FROM x",
                "said \" ---> 1\"",
                "said \"STEP 2/2: RUN a\\n\""
            ]
        );
        assert_eq!(
            read(&["STEP 1/2: FROM x\n", "--> 1\n", "Step 2/2 : RUN a"]),
            [
                "Step 1/2 : FROM x",
                "said \"--> 1\\n\"",
                "said \"Step 2/2 : RUN a\""
            ]
        );
        assert_eq!(
            read(&[
                "[3/3] STEP 2/4: ARG X\n",
                "[3/3] COMMIT localhost/x:1\n",
                "[a/b] STEP 1/1: FROM x\n"
            ]),
            [
                "Step 2/4 of stage 3/3 : ARG X",
                "said \"[3/3] COMMIT localhost/x:1\\n\"",
                "said \"[a/b] STEP 1/1: FROM x\\n\"",
            ]
        );
    }
}
