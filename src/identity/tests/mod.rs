//! Key files, forged and expired tokens, organizations.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use serde_json::{Value, json};

use super::{Caller, Error, SigningKey, Verifier, bearer};
use crate::model::{Failure, Reason};

mod claims;
mod live;

const NOW: u64 = 1_700_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Rig {
    _dir: tempfile::TempDir,
    keys: SigningKey,
    verifier: Verifier,
    now: Arc<AtomicU64>,
}

fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = SigningKey::open_or_create(dir.path()).expect("a key");
    let now = Arc::new(AtomicU64::new(NOW));
    let clock = Arc::clone(&now);
    let verifier = keys.verifier(Arc::new(move || {
        UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed))
    }));
    Rig {
        _dir: dir,
        keys,
        verifier,
        now,
    }
}

impl Rig {
    fn mint(&self, org: &str, ttl: u64) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(self.now.load(Ordering::Relaxed));
        self.keys
            .mint(&org.parse().expect("a name"), Duration::from_secs(ttl), now)
    }

    fn verify(&self, token: &str) -> Result<Arc<Caller>, Failure> {
        self.verifier.verify(token, || HERE)
    }

    fn refusal(&self, token: &str) -> String {
        let failure = self.verify(token).expect_err("refused");
        assert_eq!(failure.reason, Reason::Unauthenticated);
        failure.message
    }
}

/// The token with its header replaced, the signature kept.
fn with_header(token: &str, header: &Value) -> String {
    let (_, rest) = token.split_once('.').expect("a token");
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[test]
fn a_minted_token_makes_a_member_of_its_organization_only() {
    let rig = rig();
    let caller = rig.verify(&rig.mint("acme", 60)).expect("good");
    assert!(caller.owns(&"acme".parse().expect("a name")));
    assert!(caller.may_invoke(&"acme/a".parse().expect("an id")));
    assert!(caller.may_invoke(&"public/a".parse().expect("an id")));
    assert!(!caller.owns(&"public".parse().expect("a name")));
    assert!(!caller.may_invoke(&"other/a".parse().expect("an id")));
}

#[test]
fn a_token_that_expired_in_the_cache_is_refused() {
    let rig = rig();
    let token = rig.mint("acme", 60);
    let first = rig.verify(&token).expect("good");
    let again = rig.verify(&token).expect("good");
    assert!(
        Arc::ptr_eq(&first, &again),
        "the second look did not come from the cache"
    );
    rig.now.store(NOW + 64, Ordering::Relaxed);
    rig.verify(&token).expect("within the leeway");
    rig.now.store(NOW + 65, Ordering::Relaxed);
    assert!(
        rig.refusal(&token)
            .contains("expired at 2023-11-14T22:14:20Z")
    );
    assert!(
        rig.refusal(&token).contains("expired"),
        "and once more past the cache"
    );
}

#[test]
fn forged_tokens_are_refused_with_what_is_wrong() {
    let rig = rig();
    let token = rig.mint("acme", 60);
    let kid = rig.keys.kid();
    for alg in ["none", "HS256", "ES384"] {
        let forged = with_header(&token, &json!({ "alg": alg, "kid": kid }));
        assert!(
            rig.refusal(&forged)
                .contains(&format!("{alg:?}; only ES256"))
        );
    }
    assert!(
        rig.refusal(&with_header(&token, &json!({ "alg": "ES256" })))
            .contains("names no key")
    );
    assert!(
        rig.refusal(&with_header(&token, &json!({ "alg": "ES256", "kid": "k" })))
            .contains("\"k\", which is not known")
    );

    // HMAC with the public key's id as secret, and the header of the real key: the classic
    // confusion.
    let secret = jsonwebtoken::EncodingKey::from_secret(kid.as_bytes());
    let claims = json!({ "exp": NOW + 60, "organization": { "acme": {} } });
    let hmac =
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &secret).expect("signed");
    let hmac = with_header(&hmac, &json!({ "alg": "ES256", "kid": kid }));
    rig.refusal(&hmac);

    let parts: Vec<&str> = token.split('.').collect();
    let other = URL_SAFE_NO_PAD.encode(claims.to_string());
    assert!(
        rig.refusal(&format!("{}.{other}.{}", parts[0], parts[2]))
            .contains("signature is wrong")
    );
    rig.refusal(&format!("{}.{}.", parts[0], parts[1]));
    for malformed in ["", "a", "a.b", "a.b.c", "a.b.c.d", "é.b.c"] {
        assert!(
            rig.refusal(malformed).contains("malformed"),
            "{malformed:?}"
        );
    }
    let stranger = self::rig();
    assert!(
        rig.refusal(&stranger.mint("acme", 60))
            .contains("not known here")
    );
}

#[test]
fn the_organization_comes_from_the_map_or_the_flat_claim() {
    let rig = rig();
    let sign = |mut claims: Value| {
        claims["exp"] = json!(NOW + 60);
        rig.keys.sign(&claims)
    };
    let orgs = |claims| {
        rig.verify(&sign(claims))
            .expect("good")
            .orgs
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        orgs(json!({ "organization": { "a": { "id": "1" }, "b": {}, "Not A Name": {} } })),
        ["a", "b"]
    );
    assert_eq!(orgs(json!({ "org_name": "flat", "org_id": "x" })), ["flat"]);
    assert_eq!(orgs(json!({ "organization": {}, "org_id": "x" })), ["x"]);
    assert!(
        rig.refusal(&sign(json!({ "sub": "s" })))
            .contains("has no organization")
    );
    assert!(
        rig.refusal(&sign(json!({ "organization": { "Not A Name": {} } })))
            .contains("cannot be used")
    );
    assert!(
        rig.refusal(&sign(json!({ "organization": "acme" })))
            .contains("claims cannot be read")
    );
    assert!(
        rig.refusal(&sign(json!({ "org_name": "a", "nbf": NOW + 6 })))
            .contains("not valid before")
    );
    assert!(
        rig.refusal(&rig.keys.sign(&json!({ "org_name": "a" })))
            .contains("no `exp`")
    );
}

#[test]
fn the_key_is_private_and_one_whoever_makes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("deep/data");
    assert!(matches!(SigningKey::open(&data), Err(Error::Missing(_))));
    let kids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    SigningKey::open_or_create(&data)
                        .expect("a key")
                        .kid()
                        .to_owned()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    assert!(kids.iter().all(|kid| *kid == kids[0]), "{kids:?}");

    let folder = data.join("identity");
    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let key = folder.join("signing-key.pem");
    assert_eq!((mode(&folder), mode(&key)), (0o700, 0o600));
    assert_eq!(
        fs::read_dir(&folder).expect("readable").count(),
        1,
        "temporary files are gone"
    );

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    let refused = SigningKey::open_or_create(&data)
        .err()
        .expect("exposed")
        .to_string();
    assert!(
        refused.contains("mode 640") && refused.contains("chmod 600"),
        "{refused}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
    fs::write(&key, "not a key").expect("written");
    assert!(matches!(
        SigningKey::open_or_create(&data),
        Err(Error::NotAKey { .. })
    ));
}

#[test]
fn the_system_clock_is_the_default() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys = SigningKey::open_or_create(dir.path()).expect("a key");
    let token = keys.mint(
        &"acme".parse().expect("a name"),
        super::DEFAULT_TOKEN_TTL,
        SystemTime::now(),
    );
    keys.verifier(super::system_clock())
        .verify(&token, || HERE)
        .expect("good");
}

#[test]
fn the_bearer_is_taken_from_one_header() {
    let headers = |values: &[&str]| {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(AUTHORIZATION, value.parse().expect("a header value"));
        }
        map
    };
    assert_eq!(bearer(&headers(&[])).expect("none"), None);
    assert_eq!(bearer(&headers(&["bEARER abc"])).expect("one"), Some("abc"));
    for wrong in [
        &["Bearer "][..],
        &["Basic abc"],
        &["abc"],
        &["Bearer a", "Bearer b"],
    ] {
        assert!(bearer(&headers(wrong)).is_err(), "{wrong:?}");
    }
}

#[test]
fn what_looks_like_a_token_of_the_platform_is_withheld_and_nothing_else() {
    let rig = rig();
    let elsewhere = self::rig();
    let good = rig.mint("acme", 60);
    let parts: Vec<&str> = good.split('.').collect();
    let foreign = elsewhere.mint("acme", 60);
    let payload = foreign.split('.').nth(1).expect("a payload");
    let other = format!(
        "{}.{}.c2ln",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","kid":"k"}"#),
        URL_SAFE_NO_PAD.encode(r#"{"iss":"https://accounts.example","sub":"x"}"#)
    );
    let left = |lines: &[String]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(AUTHORIZATION, line.parse().expect("valid"));
        }
        rig.verifier.withhold(&mut headers);
        let all = headers.get_all(AUTHORIZATION).iter();
        all.map(|v| v.to_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    for ours in [
        format!("Bearer {good}"),
        format!("bearer   {good}"),
        format!("Token token=\"{good}\""),
        good.clone(),
        format!("Bearer {foreign}"),
        format!("Bearer x.{payload}.y"),
        format!("Bearer {}=.{}.{}", parts[0], parts[1], parts[2]),
        format!("Bearer {}", parts[0]),
        format!("Basic YTpi, Bearer {good}"),
    ] {
        assert_eq!(left(std::slice::from_ref(&ours)), [""; 0], "{ours}");
        let basic = "Basic YTpi".to_owned();
        assert_eq!(left(&[ours, basic.clone()]), [basic]);
    }
    for theirs in [
        "Basic YTpi",
        "Bearer opaque",
        "",
        "Bearer a.b.c",
        &format!("Bearer {other}"),
    ] {
        assert_eq!(left(&[theirs.to_owned()]), [theirs]);
    }
}
