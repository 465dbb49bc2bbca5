//! The catalogs: what can be invoked, as other organizations see it.

use serde_json::{Value, json};

use crate::support::{
    contract::{BOTH, merge},
    ignite::Ignite,
};

const SCHEMA: &str = "{\"type\":\"object\"}";

fn names(page: &Value) -> Vec<String> {
    let all = page["items"].as_array().cloned().unwrap_or_default();
    let name = |e: &Value| e["name"].as_str().expect("a name").to_owned();
    all.iter().map(name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogs_have_what_is_published_for_whom_it_is() {
    let ignite = Ignite::builder().start().await;
    for (org, name) in [
        ("acme", "a"),
        ("acme", "c"),
        ("public", "open"),
        ("public", "z"),
    ] {
        let settings = json!({
            "description": format!("{name} of {org}"), "input_schema": SCHEMA, "mcp_enabled": true,
            "env": { "TOKEN": "hidden" },
        });
        ignite.publish(org, name, settings).await;
    }
    let (acme, public, other) = (
        ignite.token("acme"),
        ignite.token("public"),
        ignite.token("other"),
    );
    for (org, name, token) in [("acme", "b", &acme), ("public", "draft", &public)] {
        let app = json!({ "organization_name": org, "name": name });
        ignite.ok(BOTH[0], "CreateApp", token, app).await;
    }
    let of = |org: &str| json!({ "organization_name": org });
    let with = |mut fields: Value, more: Value| {
        merge(&mut fields, more);
        fields
    };
    for via in BOTH {
        let all = ignite.ok(via, "ListCatalog", &acme, of("acme")).await;
        assert_eq!(names(&all), ["a", "c"], "what is published");
        assert!(all.get("nextCursor").is_none(), "{all}");
        let id = json!({ "organization_name": "acme", "app_name": "a" });
        let app = ignite.ok(via, "GetApp", &acme, id).await["app"].clone();
        let expected = json!({
            "id": "acme/a", "name": "a", "organizationName": "acme", "description": "a of acme",
            "createdAtMs": app["createdAtMs"], "app": { "runtime": "image", "mcpEnabled": true },
            "inputSchema": SCHEMA, "publicUrls": app["publicUrls"], "activeVersion": 1,
        });
        assert_eq!(all["items"][0], expected);
        let page = with(of("acme"), json!({ "limit": 1 }));
        let page = ignite.ok(via, "ListCatalog", &acme, page).await;
        assert_eq!(names(&page), ["a"]);
        let next = json!({ "limit": 1, "cursor": page["nextCursor"] });
        let next = with(of("acme"), next);
        let next = ignite.ok(via, "ListCatalog", &acme, next).await;
        assert_eq!(names(&next), ["c"]);
        assert!(next.get("nextCursor").is_none(), "{next}");

        let models = json!({ "source_type": "CATALOG_SOURCE_MODEL" });
        let models = ignite.ok(via, "ListPublicCatalog", "", models).await;
        assert_eq!(models, json!({}), "there are none");

        let page = json!({ "limit": 1, "source_type": "CATALOG_SOURCE_FUNCTION" });
        let page = ignite.ok(via, "ListPublicCatalog", &other, page).await;
        assert_eq!(names(&page), ["open"]);
        let next = json!({ "cursor": page["nextCursor"] });
        let next = ignite.ok(via, "ListPublicCatalog", &other, next).await;
        assert_eq!(names(&next), ["z"]);
        let same = ignite.ok(via, "ListCatalog", &other, of("public")).await;
        assert_eq!(names(&same), ["open", "z"]);
        assert!(!same.to_string().contains("hidden"), "{same}");
        let one = json!({ "name": "open" });
        let one = ignite.ok(via, "GetPublicCatalogDetail", &other, one).await;
        assert_eq!(one["item"], same["items"][0]);
        assert_eq!(one["item"]["description"], "open of public");

        let foreign = ignite.refused(via, "ListCatalog", &other, of("acme")).await;
        foreign.is(7, 403, "PERMISSION_DENIED", &["acme"]);
        for name in ["draft", "nowhere", "a"] {
            let none = json!({ "name": name });
            let none = ignite
                .refused(via, "GetPublicCatalogDetail", &other, none)
                .await;
            none.is(5, 404, "NOT_FOUND", &[name, "ListPublicCatalog"]);
        }
        let wrong = json!({ "name": "A!" });
        let wrong = ignite
            .refused(via, "GetPublicCatalogDetail", &other, wrong)
            .await;
        wrong.is(3, 400, "INVALID_ARGUMENT", &[]);
        assert_eq!(wrong.fields, ["name"]);
        let nobody = ignite.refused(via, "ListCatalog", "", of("public")).await;
        nobody.is(16, 401, "UNAUTHENTICATED", &[]);
        let open = ignite.ok(via, "ListPublicCatalog", "", json!({})).await;
        assert_eq!(open, same, "the same without a token");
        let named = json!({ "name": "open" });
        let open = ignite.ok(via, "GetPublicCatalogDetail", "", named).await;
        assert_eq!(open["item"], one["item"]);
        for (rpc, fields) in [
            ("ListCatalog", of("public")),
            ("ListPublicCatalog", json!({})),
        ] {
            for (more, field) in [
                (json!({ "limit": -1 }), "limit"),
                (json!({ "cursor": "x!" }), "cursor"),
                (json!({ "source_type": 7 }), "source_type"),
            ] {
                let wrong = with(fields.clone(), more);
                let wrong = ignite.refused(via, rpc, &other, wrong).await;
                wrong.is(3, 400, "INVALID_ARGUMENT", &[]);
                assert_eq!(wrong.fields, [field]);
            }
        }
    }
}
