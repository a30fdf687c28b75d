use e2e::Sandbox;
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_project_is_made_read_changed_and_removed_by_its_owner_alone() {
    let sandbox = Sandbox::start().await;
    let (owner, stranger, edge) = (sandbox.register().await, sandbox.register().await, sandbox.edge());
    let body = json!({ "name": " Moon ", "description": "to the" });
    let made = edge.post("/api/v1/projects", &owner.token, body).await.must_be(201);
    assert_eq!((made["name"].as_str(), made["owner_id"].as_str()), (Some("Moon"), Some(owner.id.as_str())));
    let path = format!("/api/v1/projects/{}", made["id"].as_str().expect("an id"));
    edge.get(&path, &stranger.token).await.must_fail(404, "PROJ001");
    edge.put(&path, &stranger.token, json!({ "name": "mine" })).await.must_fail(404, "PROJ001");
    edge.delete(&path, &stranger.token).await.must_fail(404, "PROJ001");
    let changed = edge.put(&path, &owner.token, json!({ "name": "Mars" })).await.must_be(200);
    assert_eq!((changed["name"].as_str(), changed["description"].as_str()), (Some("Mars"), Some("to the")));
    edge.delete(&path, &owner.token).await.must_be(204);
    edge.get(&path, &owner.token).await.must_fail(404, "PROJ001");
    edge.get("/api/v1/projects/not-an-id", &owner.token).await.must_fail(400, "REQ001");
    let upper = Uuid::now_v7().to_string().to_uppercase();
    edge.get(&format!("/api/v1/projects/{upper}"), &owner.token).await.must_fail(400, "REQ001");
}

#[tokio::test]
async fn a_description_may_have_lines_and_no_other_control_characters() {
    let sandbox = Sandbox::start().await;
    let (owner, edge) = (sandbox.register().await, sandbox.edge());
    let lines = json!({ "name": "Moon", "description": "one\r\n\ttwo" });
    let made = edge.post("/api/v1/projects", &owner.token, lines).await.must_be(201);
    assert_eq!(made["description"], "one\r\n\ttwo");
    let path = format!("/api/v1/projects/{}", made["id"].as_str().expect("an id"));
    for bad in ["a\0b", "\u{1b}[31m", "\u{85}"] {
        let body = json!({ "name": "Moon", "description": bad });
        edge.post("/api/v1/projects", &owner.token, body.clone()).await.must_fail(400, "REQ001");
        edge.put(&path, &owner.token, body).await.must_fail(400, "REQ001");
    }
}

#[tokio::test]
async fn the_projects_quota_is_exact_under_concurrency_and_deleting_frees_it() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let tries =
        (0..12).map(|n| edge.post("/api/v1/projects", &user.token, json!({ "name": format!("p{n}") })));
    let replies = futures_util::future::join_all(tries).await;
    let made: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
    assert_eq!(made.len(), 3, "a free tier has three");
    for refused in replies.iter().filter(|reply| reply.status != 201) {
        refused.must_fail(403, "SUB002");
        let details = &refused.body["error"]["details"];
        assert_eq!(details, &json!({ "resource": "projects", "limit": 3, "used": 3 }));
    }
    let first = made[0].body["id"].as_str().expect("an id");
    edge.delete(&format!("/api/v1/projects/{first}"), &user.token).await.must_be(204);
    edge.post("/api/v1/projects", &user.token, json!({ "name": "again" })).await.must_be(201);
}

#[tokio::test]
async fn projects_are_listed_newest_first_page_by_page() {
    let sandbox = Sandbox::start().await;
    let (user, edge) = (sandbox.register().await, sandbox.edge());
    let empty = edge.get("/api/v1/projects", &user.token).await.must_be(200);
    assert_eq!(empty, json!({ "projects": [], "count": 0 }));
    for name in ["one", "two", "three"] {
        edge.post("/api/v1/projects", &user.token, json!({ "name": name })).await.must_be(201);
    }
    let first = edge.get("/api/v1/projects?limit=2", &user.token).await.must_be(200);
    let names = |page: &serde_json::Value| {
        let projects = page["projects"].as_array().expect("a list").iter();
        projects.map(|project| project["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (names(&first), first["count"].as_i64()),
        (vec!["three".to_owned(), "two".to_owned()], Some(3))
    );
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let last = edge.get(&format!("/api/v1/projects?limit=2&cursor={cursor}"), &user.token).await.must_be(200);
    assert_eq!((names(&last), last.get("next_cursor")), (vec!["one".to_owned()], None));
    for query in ["limit=0x", "limit=101", "limit=-1", "cursor=abc"] {
        edge.get(&format!("/api/v1/projects?{query}"), &user.token).await.must_fail(400, "REQ001");
    }
}
