"""Where the pipeline's files lie, as dvc.yaml says: paths from the root of the repository."""

PARAMETERS = "params.yaml"
PIPELINE = "dvc.yaml"
LOCK = "dvc.lock"
PINS = "compute.lock"  # versions of the libraries that decide numbers

RECIPES = "recipes"  # for each recipe and stage a folder of links to the parts that only some recipes use

RAW = "data/raw"
PREPARED = "data/prepared"
DATASET = f"{PREPARED}/dataset.json"
MODEL = "data/model"
CHECKPOINT = f"{MODEL}/checkpoint.safetensors"
HISTORY = f"{MODEL}/history.csv"
MODEL_ENVIRONMENT = f"{MODEL}/environment.json"
PREDICTIONS = "data/evaluation/predictions.csv"
PLOTS = "data/plots"
METRICS = "metrics/evaluate.json"
ENVIRONMENT = "metrics/environment.json"

EXPORTED = "data/export/model.onnx"
EXPERIMENTS = "data/experiments"
REPORT = "report.html"
SCRATCH = ".samebits"  # in no commit and no cache
DATABASE = "mlflow.db"
SEARCHES = "search.db"  # who works on which trial of a search, and what came out
ARTIFACTS = "mlartifacts"


def split(name: str) -> str:
    """Return the folder of the prepared images of a split: train, validation or test."""
    return f"{PREPARED}/{name}"


def whole_split(name: str) -> str:
    """Return the file that held the prepared images of a split in results of earlier versions."""
    return f"{PREPARED}/{name}.safetensors"
