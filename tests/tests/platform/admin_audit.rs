//! `/api/v1/admin/audit`: the log of all accounts.

use e2e::Sandbox;
use serde_json::json;
use uuid::Uuid;

const PATH: &str = "/api/v1/admin/audit";

#[tokio::test]
async fn the_log_of_all_accounts_is_read_page_by_page_and_filtered() {
    let sandbox = Sandbox::start().await;
    let (admin, edge) = (sandbox.administrator().await, sandbox.edge());
    let users = [sandbox.register().await, sandbox.register().await];
    for user in &users {
        for permission in ["projects.manage", "personas.create"] {
            let path = format!("/api/v1/admin/users/{}/permissions", user.id);
            edge.post(&path, &admin.token, json!({ "permission_name": permission })).await.must_be(200);
        }
    }
    let ask = async |query: &str| edge.get(&format!("{PATH}?{query}"), &admin.token).await.must_be(200);
    let all = ask("limit=100").await;
    let all = all["entries"].as_array().expect("entries");
    let mut walked = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = ask(&format!("limit=3&cursor={cursor}")).await;
        walked.extend(page["entries"].as_array().expect("entries").clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        next.clone_into(&mut cursor);
    }
    assert_eq!(&walked, all, "the pages are the whole, in the same order");
    assert!(walked.is_sorted_by(|one, other| one["id"].as_str() > other["id"].as_str()), "newest first");

    let granted = ask("action=permission_granted").await;
    let granted = granted["entries"].as_array().expect("entries");
    assert_eq!(granted.len(), 4);
    assert!(granted.iter().all(|entry| entry["actor_id"] == admin.id.as_str()));
    let [one, other] = [&users[0].id, &users[1].id];
    for (query, expected) in [
        (format!("action=permission_granted&target_id={one}"), 2),
        (format!("action=permission_granted&user_id={other}&actor_id={}", admin.id), 2),
        (format!("action=permission_granted&actor_id={one}"), 0),
        (format!("action=registered&user_id={one}"), 1),
        (format!("user_id={}", Uuid::now_v7()), 0),
        (format!("action=permission_granted&from={}", granted[1]["at"].as_str().expect("a time")), 2),
        (format!("action=permission_granted&until={}", granted[1]["at"].as_str().expect("a time")), 2),
        ("from=2020-01-01T00:00:00%2B01:00&until=2021-01-01T00:00:00Z".to_owned(), 0),
        ("from=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z".to_owned(), all.len()),
    ] {
        let found = ask(&query).await;
        assert_eq!(found["entries"].as_array().expect("entries").len(), expected, "{query}");
    }

    let bad = "limit=101&cursor=x&action=x&user_id=x&actor_id=x&target_id=x&from=x&until=2026-01-01";
    let reply = edge.get(&format!("{PATH}?{bad}"), &admin.token).await;
    reply.must_fail(400, "REQ001");
    let fields = reply.body["error"]["details"]["fields"].as_object().expect("fields");
    assert_eq!(fields.len(), 8, "{fields:?}");
}
