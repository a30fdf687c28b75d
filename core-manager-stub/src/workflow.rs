//! A make-believe workflow: so many steps of so many milliseconds, then the outcome that its parameters ask for.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

const MAX_STEPS: u32 = 1000;

/// A `start_workflow` message.
#[derive(Deserialize)]
pub struct Start {
    #[serde(default)]
    id: Value,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    workflow_type: Value,
    #[serde(default)]
    parameters: Option<Parameters>,
}

/// How the workflow is to go; everything else in `parameters` is for a real core-manager.
#[derive(Clone, Deserialize)]
#[serde(default)]
struct Parameters {
    /// Answers the start with an error.
    refuse: bool,
    /// Waits so long before the first report.
    delay_ms: u64,
    steps: u32,
    step_ms: u64,
    outcome: Outcome,
    result: Value,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            refuse: false,
            delay_ms: 0,
            steps: 5,
            step_ms: 200,
            outcome: Outcome::Completed,
            result: Value::Null,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Completed,
    Failed,
}

/// Runs the workflow and reports each step as it begins, then the outcome: `steps` + 1 messages.
pub async fn run(start: Start, reports: mpsc::Sender<Value>) {
    let parameters = start.data.parameters.clone().unwrap_or_default();
    sleep(Duration::from_millis(parameters.delay_ms)).await;
    if parameters.refuse {
        let error = json!({ "code": "STUB", "message": "refused as asked" });
        let refusal =
            json!({ "type": "error", "id": Uuid::now_v7(), "correlation_id": start.id, "error": error });
        // Whoever has gone need not be told.
        let _ = reports.send(refusal).await;
        return;
    }
    let steps = parameters.steps.clamp(1, MAX_STEPS);
    for step in 0..steps {
        let name = format!("step {} of {steps}", step + 1);
        let progress = f64::from(step) / f64::from(steps);
        let data = json!({ "status": "in_progress", "step": name, "progress": progress, "result": null });
        if reports.send(status(&start.id, data)).await.is_err() {
            return;
        }
        sleep(Duration::from_millis(parameters.step_ms)).await;
    }
    let data = outcome(&start.data.workflow_type, parameters, steps);
    // The socket may have closed meanwhile; then there is nobody to tell.
    let _ = reports.send(status(&start.id, data)).await;
}

fn outcome(workflow_type: &Value, parameters: Parameters, steps: u32) -> Value {
    match parameters.outcome {
        Outcome::Completed => {
            let result = json!({ "workflow_type": workflow_type, "result": parameters.result });
            json!({ "status": "completed", "step": "done", "progress": 1.0, "result": result })
        }
        Outcome::Failed => {
            let progress = f64::from(steps - 1) / f64::from(steps);
            let result = json!({ "error": "failed as asked", "result": parameters.result });
            json!({ "status": "failed", "step": "failed", "progress": progress, "result": result })
        }
    }
}

/// What is told of a start that cannot be run.
pub fn unfit(id: &Value, why: &str) -> Value {
    let result = json!({ "error": why });
    status(id, json!({ "status": "failed", "step": "start", "progress": 0.0, "result": result }))
}

fn status(start: &Value, data: Value) -> Value {
    json!({ "type": "workflow_status", "id": Uuid::now_v7(), "correlation_id": start, "data": data })
}
