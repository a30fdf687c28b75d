//! What the edge is compared with, and the upstream that all of them have in common.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::cpu::{Cores, pinned};
use super::stage::{Server, folder, free_address};
use crate::Outcome;
use crate::packages::which;
use crate::workspace::write_private;

/// Where the upstream says which headers it got.
pub const ECHO_PATH: &str = "/api/v1/bench/echo";
/// A path that every user may POST to, without a quota.
pub const POST_PATH: &str = "/api/v1/bench/post";
/// The request of the budget.
pub const GET_PATH: &str = "/api/v1/personas/instances/0199c0de-0000-7000-8000-000000000001";
/// The route of the edge for the first two.
pub const BENCH_ROUTES: &str = "GET+POST /api/v1/bench/{*rest} user";

/// The settings of nginx that every use of it here has.
fn nginx_config(name: &str, http: &str) -> String {
    let at = |file: &str| folder().join(format!("{name}-{file}")).display().to_string();
    let spools: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {};\n", at(kind)))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log {} error;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n{spools}  keepalive_requests 1000000000;\n  keepalive_timeout 1h;\n{http}}}\n",
        at("pid"),
        at("error.log"),
    )
}

/// The neutral upstream: 1 KiB of JSON, or what it got of the six headers.
pub async fn upstream() -> Outcome<Server> {
    upstream_with("upstream", "").await
}

/// The same, which also passes WebSockets on to a server of ours.
pub async fn upstream_with_sockets(sockets: SocketAddr) -> Outcome<Server> {
    let location = format!(
        "    location = /ws {{\n      proxy_pass http://{sockets};\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Upgrade $http_upgrade;\n      proxy_set_header Connection upgrade;\n\
         \x20     proxy_read_timeout 1h;\n    }}\n"
    );
    upstream_with("upstream-sockets", &location).await
}

async fn upstream_with(name: &str, more: &str) -> Outcome<Server> {
    let address = free_address()?;
    let padding = "x".repeat(1024 - r#"{"id":"1","padding":""}"#.len());
    let http = format!(
        "  server {{\n    listen {address} backlog=4096;\n    default_type application/json;\n\
         \x20   location / {{ return 200 '{{\"id\":\"1\",\"padding\":\"{padding}\"}}'; }}\n\
         \x20   location {ECHO_PATH} {{ return 200 '$http_x_user_id|$http_x_client_id|$http_x_user_role|\
         $http_x_user_tier|$http_x_user_email|$http_x_user_permissions|$http_x_user_forged'; }}\n{more}  }}\n"
    );
    nginx(name, None, address, &http).await
}

/// nginx that does nothing but proxy.
pub async fn plain_nginx(cores: Cores, upstream: SocketAddr) -> Outcome<Server> {
    let address = free_address()?;
    let http = format!(
        "  upstream behind {{\n    server {upstream};\n    keepalive 128;\n    keepalive_requests 1000000000;\n\
         \x20   keepalive_timeout 1h;\n  }}\n\
         \x20 server {{\n    listen {address} backlog=4096;\n    location / {{\n      proxy_pass http://behind;\n\
         \x20     proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n    }}\n  }}\n"
    );
    nginx("nginx", Some(cores), address, &http).await
}

async fn nginx(name: &str, cores: Option<Cores>, address: SocketAddr, http: &str) -> Outcome<Server> {
    let config = folder().join(format!("{name}.conf"));
    write_private(&config, &nginx_config(name, http))?;
    let mut command =
        pinned(&program("nginx")?, &cores.map_or_else(own_core, |cores| Ok(vec![cores.tested]))?);
    command.arg("-c").arg(&config).arg("-e").arg(folder().join(format!("{name}-start.log")));
    Server::start(name, &mut command, address).await
}

/// The core that we run on ourselves.
fn own_core() -> Outcome<Vec<usize>> {
    Ok(vec![rustix::thread::sched_getcpu()])
}

/// HAProxy that does nothing but proxy, WebSockets included.
pub async fn plain_haproxy(name: &str, cores: Cores, upstream: SocketAddr) -> Outcome<Server> {
    haproxy(name, cores, upstream, "").await
}

/// HAProxy at the work of the edge: the signature (HS256) and `exp`, the client's own `X-User-*` away, ours from the
/// claims, which are decoded once for all. Of the rest of the edge's work (live claims, ids, metrics, an access log,
/// other spellings of the names, several permissions) it is spared all.
pub async fn haproxy_with_jwt(cores: Cores, upstream: SocketAddr, secret: &str) -> Outcome<Server> {
    let headers: String = [
        ("X-User-ID", "user_id"),
        ("X-Client-ID", "client_id"),
        ("X-User-Role", "role"),
        ("X-User-Tier", "tier"),
        ("X-User-Email", "email"),
        ("X-User-Permissions", "permissions[0]"),
    ]
    .iter()
    .map(|(header, claim)| {
        format!("  http-request set-header {header} %[var(txn.claims),json_query('$.{claim}')]\n")
    })
    .collect();
    let rules = format!(
        "  http-request set-var(txn.token) http_auth_bearer\n\
         \x20 http-request deny deny_status 401 unless {{ var(txn.token),jwt_header_query('$.alg') -m str HS256 }}\n\
         \x20 http-request deny deny_status 401 unless {{ var(txn.token),jwt_verify(\"HS256\",\"{secret}\") -m int 1 }}\n\
         \x20 http-request set-var(txn.claims) var(txn.token),field(2,.),ub64dec\n\
         \x20 http-request set-var(txn.now) date()\n\
         \x20 http-request set-var(txn.exp) var(txn.claims),json_query('$.exp','int')\n\
         \x20 http-request deny deny_status 401 if {{ var(txn.exp),sub(txn.now) -m int lt 1 }}\n\
         \x20 http-request del-header x-user- -m beg\n\
         \x20 http-request del-header x-client-id\n{headers}"
    );
    haproxy("haproxy-jwt", cores, upstream, &rules).await
}

async fn haproxy(name: &str, cores: Cores, upstream: SocketAddr, rules: &str) -> Outcome<Server> {
    let address = free_address()?;
    let config = format!(
        "global\n  nbthread 1\n  maxconn 8000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         \x20 timeout tunnel 1h\n  http-reuse always\n\
         frontend front\n  bind {address} backlog 4096\n{rules}  default_backend behind\n\
         backend behind\n  server one {upstream}\n"
    );
    let path: PathBuf = folder().join(format!("{name}.cfg"));
    write_private(&path, &config)?;
    let mut command = pinned(&program("haproxy")?, &[cores.tested]);
    command.arg("-db").arg("-f").arg(&path);
    Server::start(name, &mut command, address).await
}

fn program(name: &str) -> Outcome<PathBuf> {
    which(name).ok_or_else(|| format!("{name} is not there").into())
}

/// The version of a program as it says it itself.
pub async fn version(name: &str, flag: &str) -> String {
    let Some(program) = which(name) else { return format!("{name}: not there") };
    let output = tokio::process::Command::new(Path::new(&program)).arg(flag).output().await;
    let said = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}
