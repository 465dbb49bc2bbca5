//! The platform an image is built for, and the one an engine's host runs.

use std::fmt;

/// An operating system and a processor, in the terms of images: `linux/arm64/v8`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Platform {
    os: String,
    arch: String,
    /// The variant of the processor, such as `v7`; empty when unknown.
    variant: String,
}

impl Platform {
    /// The platform that an image or an engine reports; unknown parts are empty. An engine names
    /// its processor as `uname -m` does.
    pub fn new(os: &str, arch: &str, variant: &str) -> Self {
        let (arch, implied) = match arch.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => ("amd64".to_owned(), ""),
            "aarch64" => ("arm64".to_owned(), ""),
            "i386" | "i486" | "i586" | "i686" | "x86" => ("386".to_owned(), ""),
            "armv5l" | "armv5tel" => ("arm".to_owned(), "v5"),
            "armv6l" | "armel" => ("arm".to_owned(), "v6"),
            "armv7l" | "armv8l" | "armhf" => ("arm".to_owned(), "v7"),
            other => (other.to_owned(), ""),
        };
        let variant = match variant {
            "" => implied,
            given => given,
        };
        Self {
            os: os.to_ascii_lowercase(),
            arch,
            variant: variant.to_ascii_lowercase(),
        }
    }

    /// Whether a host of this platform runs an image for `image` without emulation. Unknown parts
    /// match anything.
    pub fn runs(&self, image: &Platform) -> bool {
        let says_same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        if !says_same(&self.os, &image.os) {
            return false;
        }
        match (self.arch.as_str(), image.arch.as_str()) {
            // These processors execute the older instruction set too.
            ("amd64", "386") | ("arm64", "arm") => true,
            ("arm", "arm") => self.variant.is_empty() || image.variant <= self.variant,
            (host, image) => says_same(host, image),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_unknown = |s: &str| match s {
            "" => "unknown".to_owned(),
            s => s.to_owned(),
        };
        write!(f, "{}/{}", or_unknown(&self.os), or_unknown(&self.arch))?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_runs_what_is_made_for_it_in_whichever_words_and_nothing_else() {
        let host = |arch| Platform::new("linux", arch, "");
        let image = |arch, variant| Platform::new("linux", arch, variant);
        for (at, of, variant, runs) in [
            ("x86_64", "amd64", "", true),
            ("x86_64", "amd64", "v1", true),
            ("x86_64", "386", "", true),
            ("x86_64", "arm64", "v8", false),
            ("x86_64", "", "", true),
            ("", "arm64", "", true),
            ("aarch64", "arm64", "v8", true),
            ("aarch64", "arm", "v7", true),
            ("aarch64", "amd64", "", false),
            ("armv7l", "arm", "v6", true),
            ("armv6l", "arm", "v7", false),
            ("i686", "amd64", "", false),
            ("riscv64", "riscv64", "", true),
        ] {
            assert_eq!(host(at).runs(&image(of, variant)), runs, "{of} on {at}");
        }
        assert!(!host("x86_64").runs(&Platform::new("windows", "amd64", "")));
        assert_eq!(image("arm64", "v8").to_string(), "linux/arm64/v8");
        assert_eq!(host("x86_64").to_string(), "linux/amd64");
        assert_eq!(Platform::default().to_string(), "unknown/unknown");
    }
}
