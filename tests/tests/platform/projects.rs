use std::time::Instant;

use e2e::{Plan, Reply, Sandbox, User};
use futures_util::future::join_all;
use serde_json::{Value, json};
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

const PROJECTS: &str = "/api/v1/projects";

/// Makes so many at once over all edges. Gives those that were admitted; all others must have met the limit.
async fn make_at_once(sandbox: &Sandbox, user: &User, count: usize, limits: &[i64]) -> Vec<String> {
    let tries = (0..count).map(|one| {
        let edge = &sandbox.edges[one % sandbox.edges.len()];
        edge.post(PROJECTS, &user.token, json!({ "name": format!("p{one}") }))
    });
    let (made, refused): (Vec<Reply>, Vec<Reply>) =
        join_all(tries).await.into_iter().partition(|reply| reply.status == 201);
    for refused in refused {
        refused.must_fail(403, "SUB002");
        let details = &refused.body["error"]["details"];
        let of = |name: &str| details[name].as_i64().expect("a number");
        assert!(details["resource"] == "projects" && limits.contains(&of("limit")), "{details}");
        assert!(of("used") >= of("limit"), "{details}");
    }
    made.iter().map(|made| made.body["id"].as_str().expect("an id").to_owned()).collect()
}

async fn count(sandbox: &Sandbox, user: &User) -> Value {
    sandbox.edge().get(PROJECTS, &user.token).await.must_be(200)["count"].clone()
}

#[tokio::test]
async fn of_many_projects_at_once_over_two_edges_exactly_the_limit_is_admitted() {
    const AT_ONCE: usize = 200;
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let user = sandbox.register().await;
    super::quota::open_pools(&sandbox, &user).await;
    let started = Instant::now();
    for round in 0..super::quota::rounds() {
        let made = make_at_once(&sandbox, &user, AT_ONCE, &[3]).await;
        assert_eq!((made.len(), count(&sandbox, &user).await), (3, json!(3)), "round {round}");
        let gone = made.iter().map(|id| {
            let path = format!("{PROJECTS}/{id}");
            let (edge, token) = (sandbox.edge(), &user.token);
            async move { edge.delete(&path, token).await.must_be(204) }
        });
        join_all(gone).await;
    }
    println!("{} rounds of {AT_ONCE} projects at once took {:?}", super::quota::rounds(), started.elapsed());
    let quota = sandbox.edge().get("/api/v1/subscription/check-quota?resource=projects", &user.token).await;
    assert_eq!(quota.must_be(200)["used"], 0, "deleting frees");
}

#[tokio::test]
async fn while_the_tier_changes_neither_limit_is_passed_and_the_new_one_holds_at_once() {
    let sandbox = Sandbox::planned(Plan { replicas: 2, ..Plan::default() }).await;
    let (admin, user) = (sandbox.administrator().await, sandbox.register().await);
    let put_on = async |tier: &str| {
        let path = format!("/api/v1/admin/subscriptions/{}", user.id);
        sandbox.edge().put(&path, &admin.token, json!({ "tier": tier })).await.must_be(200);
    };
    let upgrading = futures_util::future::join(make_at_once(&sandbox, &user, 100, &[3, 10]), put_on("basic"));
    let (meanwhile, ()) = upgrading.await;
    assert!((3..=10).contains(&meanwhile.len()), "{}", meanwhile.len());
    let then = make_at_once(&sandbox, &user, 100, &[10]).await;
    assert_eq!(meanwhile.len() + then.len(), 10, "the new limit holds for whoever asks after the upgrade");
    // Those who asked before a downgrade may still be admitted up to the old limit; nobody after it is.
    let gone = meanwhile.iter().chain(&then).take(9).map(|id| {
        let path = format!("{PROJECTS}/{id}");
        let (edge, token) = (sandbox.edge(), &user.token);
        async move { edge.delete(&path, token).await.must_be(204) }
    });
    join_all(gone).await;
    let downgrading =
        futures_util::future::join(make_at_once(&sandbox, &user, 100, &[3, 10]), put_on("free"));
    let (meanwhile, ()) = downgrading.await;
    assert!((2..=9).contains(&meanwhile.len()), "{}", meanwhile.len());
    assert_eq!(make_at_once(&sandbox, &user, 100, &[3]).await, Vec::<String>::new());
    assert_eq!(count(&sandbox, &user).await, json!(1 + meanwhile.len()));
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
    for query in ["limit=0x", "limit=0", "limit=101", "limit=-1", "cursor=abc"] {
        edge.get(&format!("/api/v1/projects?{query}"), &user.token).await.must_fail(400, "REQ001");
    }
}
