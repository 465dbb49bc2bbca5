//! What a token says: times, audiences, scopes, extensions, as the RFCs have them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use p256::{
    SecretKey,
    elliptic_curve::rand_core::OsRng,
    pkcs8::{EncodePrivateKey as _, LineEnding},
};
use serde_json::{Value, json};

use super::{NOW, Rig, rig, with_header};
use crate::{
    config::Tokens,
    identity::{check::Rules, verifier::Verifier},
    model::{Grants, Reason, Role, Scope, Scopes},
};

impl Rig {
    /// As it is, under other settings.
    fn with(self, settings: Tokens) -> Self {
        let clock = {
            let now = self.now.clone();
            move || {
                let now = now.load(std::sync::atomic::Ordering::Relaxed);
                std::time::UNIX_EPOCH + std::time::Duration::from_secs(now)
            }
        };
        let clock = std::sync::Arc::new(clock);
        let verifier = Verifier::of_key(Rules::of(&settings), &self.keys, clock);
        Self { verifier, ..self }
    }

    /// A token with these claims over good ones.
    fn with_claims(&self, more: Value) -> String {
        let mut claims = json!({ "exp": NOW + 60, "org_name": "acme" });
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        self.keys.sign(&claims)
    }
}

#[test]
fn times_may_have_fractions_and_must_be_numbers() {
    let rig = rig();
    let good = [
        json!({ "exp": NOW as f64 + 0.5, "iat": NOW as f64 - 0.25, "nbf": 0.0 }),
        json!({ "exp": 1e300 }),
        json!({ "iat": NOW + 5 }),
        json!({ "nbf": NOW + 5 }),
    ];
    for claims in good {
        let caller = rig.verify(&rig.with_claims(claims.clone()));
        assert!(caller.is_ok(), "{claims}: {caller:?}");
    }
    for (claims, words) in [
        (json!({ "exp": NOW as f64 - 5.0 }), "expired"),
        (json!({ "exp": -1e300 }), "expired"),
        (json!({ "exp": "1800000000" }), "cannot be read"),
        (json!({ "exp": null }), "no `exp`"),
        (json!({ "iat": NOW as f64 + 5.1 }), "clock_skew"),
        (json!({ "nbf": NOW as f64 + 5.1 }), "not valid before"),
        (json!({ "nbf": [] }), "cannot be read"),
    ] {
        let refused = rig.refusal(&rig.with_claims(claims.clone()));
        assert!(refused.contains(words), "{claims}: {refused}");
    }
    // The last fraction of a second counts.
    let token = rig.with_claims(json!({ "exp": NOW as f64 - 4.5 }));
    rig.verify(&token).expect("within the leeway");
}

#[test]
fn the_clock_skew_is_a_setting() {
    let rig = rig().with(Tokens {
        skew: std::time::Duration::from_secs(60),
        ..Tokens::default()
    });
    let token = rig.with_claims(json!({ "exp": NOW - 59, "nbf": NOW + 59, "iat": NOW + 59 }));
    rig.verify(&token).expect("within the skew");
    for claims in [json!({ "exp": NOW - 60 }), json!({ "nbf": NOW + 61 })] {
        rig.refusal(&rig.with_claims(claims));
    }
}

#[test]
fn an_audience_is_checked_when_there_is_one_or_one_is_demanded() {
    let open = rig();
    open.verify(&open.with_claims(json!({}))).expect("none");
    for aud in [json!("ignite"), json!(["x", "ignite"])] {
        let token = open.with_claims(json!({ "aud": aud }));
        open.verify(&token).expect("for ignite");
    }
    for aud in [json!("other"), json!(["x", "y"]), json!([]), json!("")] {
        let refused = open.refusal(&open.with_claims(json!({ "aud": aud })));
        assert!(refused.contains("not for ignite"), "{aud}: {refused}");
    }
    let strict = rig().with(Tokens {
        audience: Some("here".to_owned()),
        ..Tokens::default()
    });
    let refused = strict.refusal(&strict.with_claims(json!({})));
    assert!(refused.contains("here is demanded"), "{refused}");
    strict.refusal(&strict.with_claims(json!({ "aud": "ignite" })));
    let token = strict.with_claims(json!({ "aud": ["here"] }));
    strict.verify(&token).expect("for it");
}

#[test]
fn no_extension_is_understood_and_no_other_issuer_signs_with_our_key() {
    let rig = rig();
    let key = SecretKey::random(&mut OsRng)
        .to_pkcs8_pem(LineEnding::LF)
        .expect("a key");
    let other = EncodingKey::from_ec_pem(key.as_bytes()).expect("a key");
    let claims = json!({ "exp": NOW + 60, "org_name": "acme" });
    let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
    header.kid = Some(rig.keys.kid().to_owned());
    let wrong_key = jsonwebtoken::encode(&header, &claims, &other).expect("signed");
    assert!(rig.refusal(&wrong_key).contains("signature is wrong"));

    let token = rig.mint("acme", 60);
    for crit in [json!(["exp"]), json!([]), json!(null), json!("b64")] {
        let header = json!({ "alg": "ES256", "kid": rig.keys.kid(), "crit": crit });
        let refused = rig.refusal(&with_header(&token, &header));
        assert!(refused.contains("crit"), "{refused}");
    }
    let refused = rig.refusal(&rig.with_claims(json!({ "iss": "https://elsewhere.example" })));
    assert!(refused.contains("another issuer"), "{refused}");
    let iss = "http://127.0.0.1:8080/realms/dodil";
    let token = rig.with_claims(json!({ "iss": iss }));
    rig.verify(&token).expect("ours");
    // `none` never gets as far as a key.
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none" }).to_string());
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    assert!(
        rig.refusal(&format!("{none}.{claims}."))
            .contains("\"none\"")
    );
}

#[test]
fn scopes_are_those_of_the_token_or_of_the_setting() {
    let rig = rig();
    let grants = |rig: &Rig, claims| {
        let caller = rig.verify(&rig.with_claims(claims)).expect("good");
        caller.grants.clone()
    };
    let of = |scopes: &[Scope]| Grants::everywhere(Scopes::of(scopes));
    assert_eq!(grants(&rig, json!({})), Grants::everywhere(Scopes::ALL));
    assert_eq!(
        grants(&rig, json!({ "scope": "GetApp InvokeApp other" })),
        of(&[Scope::GetApp, Scope::InvokeApp])
    );
    assert_eq!(
        grants(&rig, json!({ "scp": ["GetApp", "ListApps"] })),
        of(&[Scope::GetApp, Scope::ListApps])
    );
    // A claim that names nothing opens nothing.
    for nothing in [json!(""), json!([]), json!("openid")] {
        assert_eq!(grants(&rig, json!({ "scope": nothing })), of(&[]));
    }
    let narrow = self::rig().with(Tokens {
        default_scopes: Role::AppViewer.scopes(),
        ..Tokens::default()
    });
    let viewer = Grants::everywhere(Role::AppViewer.scopes());
    assert_eq!(grants(&narrow, json!({})), viewer);
    assert_eq!(
        grants(&narrow, json!({ "scope": "DeployApp" })),
        of(&[Scope::DeployApp])
    );
}

#[test]
fn forged_tokens_slow_their_address_and_no_other_and_no_token_that_is_in_use() {
    let rig = rig().with(Tokens {
        failures_per_minute: 3,
        ..Tokens::default()
    });
    let (warm, cold) = (rig.mint("acme", 60), rig.mint("acme", 60));
    rig.verify(&warm).expect("good");
    let expired = rig.with_claims(json!({ "exp": NOW - 60 }));
    for _ in 0..10 {
        // Signed by us: no attempt to break in.
        assert!(rig.refusal(&expired).contains("expired"));
    }
    for _ in 0..3 {
        assert!(rig.refusal("a.b.c").contains("malformed"));
    }
    let slowed = rig.verify("a.b.c").expect_err("slowed");
    assert_eq!(slowed.reason, Reason::TooManyRequests);
    assert!(slowed.retry_after.is_some());
    let refused = rig.verify(&cold).expect_err("not checked");
    assert_eq!(refused.reason, Reason::TooManyRequests);
    rig.verify(&warm).expect("in use");
    rig.verifier.replace(Clone::clone);
    rig.verify(&warm)
        .expect("in use, after a change of accounts");
    let elsewhere = || std::net::IpAddr::from([10, 0, 0, 1]);
    rig.verifier.verify(&cold, elsewhere).expect("another");
    rig.verify(&cold).expect("in use now");
    assert_eq!(
        rig.verify("a.b.c").expect_err("still").reason,
        Reason::TooManyRequests
    );
}
