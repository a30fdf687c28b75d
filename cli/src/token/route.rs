//! What a route needs, as the edge describes it, and what it answers.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::http::Answer;
use crate::output::cell;
use crate::report::Check;
use crate::rest::Rest;

pub const ROUTE: &str = "route";
pub const ANSWER: &str = "answer";

/// Who asks.
pub struct Caller {
    pub role: String,
    pub is_key: bool,
}

/// Looks at a route as a caller.
pub async fn checks(rest: &Rest, method: &Method, path: &str, caller: &Caller) -> Vec<Check> {
    let plain = path.split('?').next().unwrap_or(path);
    let mut checks = Vec::new();
    let document = rest.get("/openapi.json").await;
    let operation = document.as_ref().ok().map(|document| find(document, method, plain));
    match operation {
        None => checks.push(Check::skipped(ROUTE, "the edge does not describe its routes (EDGE_DOCS)")),
        Some(None) => {
            let says = format!("the edge has no {method} {plain} (REQ002)");
            checks.push(Check::fault(ROUTE, says, "look at /docs of the edge for what there is"));
            return checks;
        }
        Some(Some(operation)) => {
            checks.push(needs(operation, method, plain, caller));
            checks.extend(quota(rest, operation).await);
        }
    }
    checks.push(if *method == Method::GET { answered(rest, path).await } else { not_sent(method) });
    checks
}

/// The description of a route; of several that fit, the one with the fewest blanks. What an operator added may end in a
/// blank for all that follows, which is described like any other.
fn find<'d>(document: &'d Value, method: &Method, path: &str) -> Option<&'d Value> {
    let paths = document["paths"].as_object()?;
    let best = |fits: &dyn Fn(&str) -> bool| {
        let fitting = paths.iter().filter(|(template, _)| fits(template));
        fitting.min_by_key(|(template, _)| template.matches('{').count())
    };
    let found =
        best(&|template| fits(template, path)).or_else(|| best(&|template| fits_begin(template, path)));
    found?.1.get(method.as_str().to_lowercase())
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    let fits = |(word, part): (&&str, &&str)| word == part || word.starts_with('{') && !part.is_empty();
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}

fn fits_begin(template: &str, path: &str) -> bool {
    let count = template.split('/').count();
    let begin: Vec<&str> = path.split('/').take(count).collect();
    template.ends_with('}') && fits(template, &begin.join("/"))
}

fn needs(operation: &Value, method: &Method, path: &str, caller: &Caller) -> Check {
    let description = operation["description"].as_str().unwrap_or_default();
    let tags = operation["tags"].as_array().into_iter().flatten();
    let is_for_administrators =
        tags.into_iter().any(|tag| tag == "admin") || description.starts_with("For administrators");
    let is_public =
        operation["security"].as_array().is_some_and(|ways| ways.iter().all(|way| *way == json!({})));
    let route = format!("{method} {path} is for");
    if is_public {
        return Check::ok(ROUTE, format!("{route} anybody"));
    }
    if is_for_administrators {
        let says = format!("{route} administrators");
        return match caller.role.as_str() {
            "admin" => Check::ok(ROUTE, says),
            "" => Check::skipped(ROUTE, format!("{says}, and the edge did not say who this is")),
            role => Check::fault(
                ROUTE,
                format!("{says}, the role here is {role} (AUTH004)"),
                "ask an administrator for the role, or use a key with `*`",
            ),
        };
    }
    if operation["x-people-only"] == true {
        let says = format!("{route} people who have signed in");
        if !caller.is_key {
            return Check::ok(ROUTE, says);
        }
        return Check::fault(
            ROUTE,
            format!("{says}, and this is an API key (AUTH004)"),
            "use an access token",
        );
    }
    Check::ok(ROUTE, format!("{route} every user"))
}

/// How the caller stands with what the route counts.
async fn quota(rest: &Rest, operation: &Value) -> Option<Check> {
    let description = operation["description"].as_str()?;
    let resource = description.split_once("Counts against the quota `")?.1.split('`').next()?;
    let path = format!("/api/v1/subscription/check-quota?resource={resource}");
    let Ok(quota) = rest.get(&path).await else {
        return Some(Check::skipped("quota", format!("of {resource} is not known")));
    };
    let says = format!("{} of {} {resource} used", cell(&quota["used"]), cell(&quota["limit"]));
    Some(if quota["has_quota"] == true {
        Check::ok("quota", says)
    } else {
        Check::fault("quota", format!("{says} (SUB002)"), "delete something, or move to a higher tier")
    })
}

async fn answered(rest: &Rest, path: &str) -> Check {
    match rest.ask(Method::GET, path, None).await {
        Err(fault) => Check::skipped(ANSWER, format!("none: {fault}")),
        Ok(answer) if answer.status.is_success() => Check::ok(ANSWER, format!("{}", answer.status)),
        Ok(answer) => {
            let error = &answer.json()["error"];
            let code = cell(&error["code"]);
            let says = format!("{} {code} {}", answer.status, cell(&error["message"]));
            // Such as 404 of core-manager: the token is not to blame.
            let is_refusal = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::TOO_MANY_REQUESTS];
            if is_refusal.contains(&answer.status) {
                Check::fault(ANSWER, says, super::remedy(&code))
            } else {
                Check::warning(ANSWER, says, "it is not the token that is refused")
            }
        }
    }
}

fn not_sent(method: &Method) -> Check {
    Check::skipped(ANSWER, format!("{method} is not sent, since it may have an effect"))
}

/// How the caller stands with the rate limit, as an answer tells it.
pub fn rate(answer: &Answer) -> Option<Check> {
    let (policy, left) = (answer.header("ratelimit-policy"), answer.header("ratelimit"));
    if left.is_empty() {
        return None;
    }
    let number = |text: &str, name: &str| {
        let value = text.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or("?").to_owned()
    };
    let says = format!("{} of {} requests a minute left", number(left, "r"), number(policy, "q"));
    Some(Check::ok("rate limit", says))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn a_path_is_described_by_the_template_that_fits_it_best() {
        let document = json!({ "paths": {
            "/api/v1/users/{id}": { "get": { "is": "one" } },
            "/api/v1/users/export": { "post": { "is": "export" }, "get": { "is": "no" } },
            "/api/v1/echo/{rest}": { "get": { "is": "echo" } },
        } });
        let is = |method: Method, path: &str| find(&document, &method, path).map(|found| found["is"].clone());
        assert_eq!(is(Method::POST, "/api/v1/users/export"), Some(json!("export")));
        assert_eq!(is(Method::GET, "/api/v1/users/7"), Some(json!("one")));
        assert_eq!(is(Method::GET, "/api/v1/echo/a/b"), Some(json!("echo")));
        assert_eq!(is(Method::PUT, "/api/v1/users/7"), None);
        assert_eq!(is(Method::GET, "/api/v1/users"), None);
        assert_eq!(is(Method::GET, "/api/v1/other/7/x"), None);
    }
    #[test]
    fn a_route_says_whom_it_is_for_and_refuses_the_others() {
        let caller = |role: &str, is_key| Caller { role: role.to_owned(), is_key };
        let status = |operation: Value, caller: Caller| needs(&operation, &Method::GET, "/x", &caller).status;
        let (admins, people) = (json!({ "tags": ["admin"] }), json!({ "x-people-only": true }));
        assert_eq!(status(admins.clone(), caller("user", false)), Status::Fault);
        assert_eq!(status(admins.clone(), caller("", false)), Status::Skipped);
        assert_eq!(status(admins, caller("admin", false)), Status::Ok);
        assert_eq!(
            status(json!({ "description": "For administrators." }), caller("user", false)),
            Status::Fault
        );
        assert_eq!(status(people.clone(), caller("user", true)), Status::Fault);
        assert_eq!(status(people, caller("user", false)), Status::Ok);
        assert_eq!(status(json!({ "tags": ["admin"], "security": [{}] }), caller("user", true)), Status::Ok);
    }
}
