//! What a caller may do: scopes, one for each group of methods, and the roles that bundle them.
//!
//! The names are the platform's. A role holds in the whole of an organization, or for one app.

use std::{fmt, str::FromStr};

use super::AppId;

macro_rules! scopes {
    ($($name:ident),* $(,)?) => {
        /// The right to call a group of methods; the platform names each after its main method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Scope { $($name,)* }

        impl Scope {
            /// Every scope.
            pub const ALL: &'static [Scope] = &[$(Scope::$name,)*];

            /// The name in tokens.
            pub const fn as_str(self) -> &'static str {
                match self { $(Scope::$name => stringify!($name),)* }
            }
        }
    };
}

scopes!(
    DeployApp,
    GetApp,
    ListApps,
    ListAppVersions,
    RollbackApp,
    InvokeApp,
    GetExecution,
    CreateBuild,
    GetBuild,
    ListBuilds,
    CancelBuild,
    SaveBuildSecrets,
    CreateSecret,
    GetSecret,
    ListSecrets,
    DeleteSecret,
);

impl Scope {
    /// The scope of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|s| s.as_str() == name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Scopes(u32);

impl Scopes {
    /// No scope.
    pub const NONE: Scopes = Scopes(0);
    /// Every scope.
    pub const ALL: Scopes = Scopes((1 << Scope::ALL.len()) - 1);

    /// The set of these.
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < scopes.len() {
            bits |= 1 << scopes[i] as u32;
            i += 1;
        }
        Self(bits)
    }

    /// Whether the scope is in the set.
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u32 != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |s| self.has(*s))
    }

    /// What one word stands for: a scope, or a role with all of its scopes.
    pub fn named(word: &str) -> Option<Self> {
        let role = || Role::parse(word).map(Role::scopes);
        Scope::parse(word).map(|s| Self::of(&[s])).or_else(role)
    }

    /// The names with a space between, as tokens have them.
    pub fn to_claim(self) -> String {
        let names: Vec<_> = self.iter().map(Scope::as_str).collect();
        names.join(" ")
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            Self::ALL => f.write_str("all"),
            some => f.write_str(&some.to_claim().replace(' ', ",")),
        }
    }
}

impl FromStr for Scopes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Self::ALL),
            "none" => return Ok(Self::NONE),
            _ => {}
        }
        let mut all = Self::NONE;
        for word in text.split(',').map(str::trim) {
            let named = Self::named(word).ok_or_else(|| unknown(word))?;
            all = all.or(named);
        }
        Ok(all)
    }
}

fn unknown(word: &str) -> String {
    let names: Vec<_> = Scope::ALL.iter().map(|s| s.as_str()).collect();
    format!(
        "{word:?} is neither a scope nor a role; write all, none, or names with commas between: {}, {}",
        Role::NAMES,
        names.join(", ")
    )
}

/// A bundle of scopes that an account is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Call models. There are none here, so it opens nothing.
    ModelUser,
    /// Look at apps, and at what became of their executions and builds.
    AppViewer,
    /// Everything that the development of apps takes, calling them included.
    AppDeveloper,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 3] = [Role::ModelUser, Role::AppViewer, Role::AppDeveloper];
    /// Their names.
    const NAMES: &'static str = "ignite.model-user, ignite.app-viewer, ignite.app-developer";

    /// The role's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::ModelUser => "ignite.model-user",
            Role::AppViewer => "ignite.app-viewer",
            Role::AppDeveloper => "ignite.app-developer",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == name)
    }

    /// What it opens.
    pub const fn scopes(self) -> Scopes {
        const VIEWER: Scopes = Scopes::of(&[
            Scope::GetApp,
            Scope::ListApps,
            Scope::ListAppVersions,
            Scope::GetExecution,
            Scope::GetBuild,
            Scope::ListBuilds,
        ]);
        match self {
            Role::ModelUser => Scopes::NONE,
            Role::AppViewer => VIEWER,
            Role::AppDeveloper => Scopes::ALL,
        }
    }

    /// Whether it can be bound to one app.
    pub const fn binds_to_app(self) -> bool {
        !matches!(self, Role::ModelUser)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
            .ok_or_else(|| format!("{text:?} is not a role; there are {}", Self::NAMES))
    }
}

/// What a caller may do in its organizations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants {
    /// With the organization and with every app of it.
    pub everywhere: Scopes,
    /// With single apps, beyond that.
    pub apps: Vec<(AppId, Scopes)>,
}

impl Grants {
    /// These scopes, and no app by itself.
    pub const fn everywhere(scopes: Scopes) -> Self {
        Self {
            everywhere: scopes,
            apps: Vec::new(),
        }
    }

    /// Whether the scope is granted for the app.
    pub fn allow(&self, scope: Scope, app: &AppId) -> bool {
        self.everywhere.has(scope) || self.apps.iter().any(|(id, s)| s.has(scope) && id == app)
    }

    /// Whether the scope is granted for anything at all.
    pub fn allow_somewhere(&self, scope: Scope) -> bool {
        self.everywhere.has(scope) || self.apps.iter().any(|(_, s)| s.has(scope))
    }

    /// What is left of it within `limit`.
    #[must_use]
    pub fn within(mut self, limit: Scopes) -> Self {
        self.everywhere = self.everywhere.and(limit);
        for (_, scopes) in &mut self.apps {
            *scopes = scopes.and(limit);
        }
        self.apps.retain(|(_, scopes)| !scopes.is_empty());
        self
    }

    /// Every scope that is granted for anything.
    pub fn all(&self) -> Scopes {
        let apps = self.apps.iter().map(|(_, s)| *s);
        apps.fold(self.everywhere, Scopes::or)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_they_are_read() {
        for text in ["all", "none", "GetApp", "DeployApp,InvokeApp"] {
            let set: Scopes = text.parse().expect("valid");
            assert_eq!(set.to_string(), text);
        }
        let role: Scopes = "ignite.app-viewer, InvokeApp".parse().expect("valid");
        assert!(role.has(Scope::ListApps) && role.has(Scope::InvokeApp));
        assert!(!role.has(Scope::DeployApp));
        assert_eq!(role.to_string().parse(), Ok(role));
        let wrong = "GetApp,Fly".parse::<Scopes>().expect_err("unknown");
        assert!(wrong.contains("\"Fly\"") && wrong.contains("ignite.app-viewer"));
        assert_eq!(Scopes::ALL.iter().count(), Scope::ALL.len());
        for scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(*scope));
        }
    }

    #[test]
    fn a_grant_for_one_app_opens_nothing_else() {
        let id = |s: &str| s.parse::<AppId>().expect("an id");
        let grants = Grants {
            everywhere: Role::AppViewer.scopes(),
            apps: vec![(id("acme/a"), Role::AppDeveloper.scopes())],
        };
        assert!(grants.allow(Scope::DeployApp, &id("acme/a")));
        assert!(!grants.allow(Scope::DeployApp, &id("acme/b")));
        assert!(!grants.allow(Scope::DeployApp, &id("other/a")));
        assert!(grants.allow(Scope::GetApp, &id("acme/b")));
        assert!(grants.allow_somewhere(Scope::DeployApp));
        assert_eq!(grants.all(), Scopes::ALL);
        let less = grants.within(Scopes::of(&[Scope::GetApp]));
        assert!(!less.allow(Scope::DeployApp, &id("acme/a")));
        assert!(!less.allow(Scope::ListApps, &id("acme/a")));
    }
}
