//! Which paths core-manager serves, for whom, and what counts against a quota: one piece of data.

use std::fmt;
use std::str::FromStr;

use contract::Resource;
use http::Method;

use crate::front::RouteLabel;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    User,
    Admin,
}

/// One route to core-manager.
#[derive(Clone, Debug)]
pub struct Route {
    methods: Vec<Method>,
    /// What every path on this route begins with.
    prefix: String,
    /// What comes after it.
    segments: Vec<Segment>,
    who: Who,
    counts: Option<Resource>,
    label: RouteLabel,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Exactly(String),
    Any,
    Rest,
}

/// The routes of the contract, in the form in which an operator writes further ones, with the counted resource.
const ROUTES: [(&str, Option<Resource>); 4] = [
    ("GET+POST /api/v1/templates admin", None),
    ("GET+PUT+DELETE /api/v1/templates/{id} admin", None),
    ("GET+POST /api/v1/personas/instances user", Some(Resource::Personas)),
    ("GET+PUT+PATCH+DELETE /api/v1/personas/instances/{id} user", Some(Resource::Personas)),
];

/// Why a route cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a route: write `GET+POST /api/v1/things/{{id}} user`, or `admin` for administrators")]
pub struct NotARoute(String);

impl FromStr for Route {
    type Err = NotARoute;

    fn from_str(text: &str) -> Result<Self, NotARoute> {
        let wrong = || NotARoute(text.to_owned());
        let mut words = text.split_whitespace();
        let (Some(methods), Some(path), Some(who), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(wrong());
        };
        let methods: Option<Vec<Method>> = methods.split('+').map(method).collect();
        let who = match who {
            "user" => Who::User,
            "admin" => Who::Admin,
            _ => return Err(wrong()),
        };
        let rest = path.strip_prefix("/api/v1/").filter(|rest| !rest.is_empty()).ok_or_else(wrong)?;
        let segments: Option<Vec<Segment>> = rest.split('/').map(segment).collect();
        let mut segments = segments.ok_or_else(wrong)?;
        let ends_well = segments.iter().rev().skip(1).all(|segment| *segment != Segment::Rest);
        if !ends_well {
            return Err(wrong());
        }
        let mut prefix = "/api/v1".to_owned();
        let plain = segments.iter().take_while(|segment| matches!(segment, Segment::Exactly(_))).count();
        for segment in segments.drain(..plain) {
            if let Segment::Exactly(name) = segment {
                prefix.extend(["/", &name]);
            }
        }
        let methods = methods.ok_or_else(wrong)?;
        Ok(Route { methods, prefix, segments, who, counts: None, label: RouteLabel::intern(path) })
    }
}

fn method(name: &str) -> Option<Method> {
    ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&name).then(|| name.parse().ok())?
}

fn segment(part: &str) -> Option<Segment> {
    let plain = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => match name.strip_prefix('*') {
            Some(name) => plain(name).then_some(Segment::Rest),
            None => plain(name).then_some(Segment::Any),
        },
        None => plain(part).then(|| Segment::Exactly(part.to_owned())),
    }
}

impl Route {
    pub fn who(&self) -> Who {
        self.who
    }

    pub fn methods(&self) -> &[Method] {
        &self.methods
    }

    /// The resource that creating and deleting here counts.
    pub fn counts(&self) -> Option<Resource> {
        self.counts
    }

    pub fn label(&self) -> RouteLabel {
        self.label
    }

    /// Compares byte by byte: a path that reached this point has one form only.
    fn has_path(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.prefix.as_str()) else { return false };
        if rest.is_empty() {
            return self.segments.is_empty();
        }
        let mut parts = rest.split('/');
        // Before the first slash there is nothing, or the name goes on and is another one.
        if parts.next() != Some("") {
            return false;
        }
        for segment in &self.segments {
            let Some(part) = parts.next() else { return false };
            match segment {
                Segment::Exactly(name) if name != part => return false,
                Segment::Any | Segment::Rest if part.is_empty() => return false,
                Segment::Rest => return true,
                Segment::Exactly(_) | Segment::Any => {}
            }
        }
        parts.next().is_none()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label.template())
    }
}

/// All routes to core-manager.
pub struct RouteTable(Vec<Route>);

/// What a request asks for.
pub enum Match<'t> {
    Route(&'t Route),
    /// The path is known; the methods that it has, for `Allow`.
    OtherMethods(String),
    None,
}

impl RouteTable {
    /// The contract's routes and those of the operator.
    pub fn new(further: Vec<Route>) -> Self {
        let contract = ROUTES.iter().map(|(text, counts)| {
            let route: Route = text.parse().unwrap_or_else(|e| unreachable!("{e}"));
            Route { counts: *counts, ..route }
        });
        RouteTable(contract.chain(further).collect())
    }

    /// The routes, those of the contract first.
    pub fn routes(&self) -> &[Route] {
        &self.0
    }

    pub fn find(&self, method: &Method, path: &str) -> Match<'_> {
        let on_path = || self.0.iter().filter(|route| route.has_path(path));
        // Who may GET may ask for the headers alone (RFC 9110 section 9.3.2).
        let of_table = if method == Method::HEAD { &Method::GET } else { method };
        if let Some(route) = on_path().find(|route| route.methods.contains(of_table)) {
            return Match::Route(route);
        }
        let mut methods: Vec<&str> = on_path().flat_map(|route| &route.methods).map(Method::as_str).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        if methods.is_empty() { Match::None } else { Match::OtherMethods(methods.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: Method, path: &str) -> Option<&'static str> {
        let extra = "GET+POST /api/v1/echo/{*rest} user".parse().expect("a route");
        match RouteTable::new(vec![extra]).find(&method, path) {
            Match::Route(route) => Some(route.label().template()),
            Match::OtherMethods(_) => Some("405"),
            Match::None => None,
        }
    }

    #[test]
    fn the_contracts_routes_and_the_operators_are_found_exactly() {
        assert_eq!(found(Method::GET, "/api/v1/templates"), Some("/api/v1/templates"));
        assert_eq!(found(Method::PUT, "/api/v1/templates/7"), Some("/api/v1/templates/{id}"));
        assert_eq!(found(Method::HEAD, "/api/v1/templates/7"), Some("/api/v1/templates/{id}"));
        assert_eq!(found(Method::PATCH, "/api/v1/templates/7"), Some("405"));
        assert_eq!(found(Method::POST, "/api/v1/echo/a/b"), Some("/api/v1/echo/{*rest}"));
        for other in [
            "/api/v1/templates/",
            "/api/v1/Templates",
            "/api/v1/templates/7/x",
            "/api/v1",
            "/",
            "/api/v1/echo",
        ] {
            assert_eq!(found(Method::GET, other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_a_route_is_refused() {
        for text in [
            "",
            "GET /x user",
            "GET /api/v1/x",
            "FETCH /api/v1/x user",
            "GET /api/v1/x root",
            "GET /api/v1/{*a}/b user",
        ] {
            assert!(text.parse::<Route>().is_err(), "{text:?}");
        }
    }
}
