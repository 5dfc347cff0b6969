"""The commands: name -> (module:function, one line of help, examples). Text only, so that ``raystudy --help`` imports none of them."""

EXAMPLES = """\
examples:
  raystudy sweep dividemix                      the main job: a study on digits, within minutes
  raystudy train dividemix --noise symmetric:0.5 --set lambda_u=50
  raystudy status dividemix-digits
  raystudy ui
"""

GROUPS = {"data": "Look at a data set.", "noise": "Find out about label noise."}

COMMANDS = {
    "sweep": (
        "sweep:sweep",
        "Search each method's hyperparameters in every cell of a grid of noise levels, and compare the methods.",
        """\
examples:
  python -m raystudy.sweep dividemix
      DivideMix beside plain cross-entropy on digits, symmetric noise 0.2 / 0.5 / 0.8
  python -m raystudy.sweep dividemix coteaching --noise symmetric:exclusive:0.2,0.4 --noise pair:0.45 --trials 20
  python -m raystudy.sweep mixup --dataset npz:images.npz --noise given --network convnet
  python -m raystudy.sweep dividemix --dataset cifar10 --data-root ~/data --epochs 300 --gpus-per-trial 0.5
  python -m raystudy.sweep --study dividemix-table1 --scale smoke
      a whole published table in miniature; without --scale smoke it is the table
  python -m raystudy.sweep dividemix --dry-run
      what would be run, and where the search may look

The same command again goes on where the study stopped; more --trials, rates or --replicates run only what is missing.
""",
    ),
    "plan": (
        "plan:plan",
        "What a study will take: cells, trials, epochs, device-hours and money.",
        """\
examples:
  raystudy plan dividemix-table1 --gpus-per-trial 0.5 --data-root ~/data
  raystudy plan my-study.toml --prices my-prices.toml --machine my-server
  raystudy plan dividemix --noise symmetric:0.2,0.5 --trials 20
""",
    ),
    "train": (
        "train:train",
        "One training of one method, without Ray.",
        """\
examples:
  raystudy train ce --noise symmetric:0.5
  raystudy train dividemix --noise symmetric:0.8 --set lambda_u=50 --set p_threshold=0.6
  raystudy train coteaching --set forget_rate=0.45 --noise pair:0.45 --checkpoint run.pt
""",
    ),
    "train-mentor": (
        "mentor:train_mentor",
        "Learn a MentorNet from a source study whose labels are known.",
        """\
examples:
  raystudy train-mentor --dataset cifar10 --noise symmetric:0.2 --out mentor-cifar10.npz
  raystudy train mentornet_dd --set mentor=$PWD/mentor-cifar10.npz
""",
    ),
    "check": (
        "check:check",
        "Whether a method of your own does what every method must (docs/your-own.md).",
        "examples:\n  raystudy check my_method.py:SmallLoss\n  raystudy check my_package.methods:SmallLoss --network convnet_small\n",
    ),
    "methods": (
        "catalogue:methods",
        "The methods, or one method's card and hyperparameters.",
        "examples:\n  raystudy methods\n  raystudy methods dividemix\n",
    ),
    "datasets": (
        "catalogue:datasets",
        "The data sets, their licences, and whether they are here.",
        "example:\n  raystudy datasets --data-root ~/data\n",
    ),
    "data show": (
        "show:show",
        "Pictures of a data set under noise: images with their labels, the transition matrix, class counts.",
        """\
examples:
  raystudy data show digits --noise pair:0.45
  raystudy data show npz:images.npz --noise given --images 100 --out pictures
""",
    ),
    "embed": (
        "embed:embed",
        "Make vectors of a data set of images or texts with a pretrained network, for studies that need minutes.",
        """\
examples:
  raystudy embed cifar10 --backbone torchvision:resnet18 --size 96 --out cifar10-resnet18.npz
  raystudy embed folder:photos --labels labels.csv --backbone timm:vit_small_patch16_224 --views 4 --out photos.npz
  raystudy embed 'csv:reviews.csv?target=stars' --text review --backbone sentence-transformers:all-MiniLM-L6-v2 --out reviews.npz
  raystudy sweep dividemix --dataset npz:reviews.npz --noise symmetric:0.5

The same command again goes on where it stopped.
""",
    ),
    "noise estimate": (
        "estimate:estimate",
        "The noise rate and transition matrix of labels whose truth is unknown.",
        """\
examples:
  raystudy noise estimate npz:mine.npz
  raystudy noise estimate digits --noise pair:0.3      how well it does where the truth is known
  raystudy noise estimate npz:mine.npz --network convnet --epochs 20 --folds 3 --out mine/noise
""",
    ),
    "recommend": (
        "recommend:recommend",
        "Which methods to try on a data set: what to expect of them, what they cost, and where to begin.",
        """\
examples:
  raystudy recommend npz:mine.npz
  raystudy recommend folder:photos --labels labels.csv --noise-rate 0.2      nothing is estimated
  raystudy recommend npz:mine.npz --from dividemix-mine --from ~/old/elr-mine/ --run

Looks up what was measured under the nearest conditions; docs/recommend.md says how near that is, and how good the advice was where
it could be checked. --run runs the study that it proposes.
""",
    ),
    "clean": (
        "clean:clean",
        "Which labels are wrong: a list, the cleaned labels, and a page of suspects.",
        """\
examples:
  raystudy clean npz:mine.npz --out cleaned
  raystudy clean digits --noise pair:0.4 --out cleaned      how well it does where the truth is known
  raystudy clean folder:pictures --method dividemix --unsure keep --out cleaned
""",
    ),
    "status": (
        "results:status",
        "How far a study is, and its leaderboard so far.",
        "example:\n  raystudy status dividemix-digits\n",
    ),
    "model": (
        "model:model",
        "The models that a study has kept: list them, or write them for other programs.",
        """\
examples:
  raystudy model dividemix-digits
  raystudy model dividemix-digits --export exported --format onnx
  raystudy model dividemix-digits --cell dividemix_digits_symmetric-inclusive-0.5 --export exported --format mlflow
""",
    ),
    "predict": (
        "model:predict",
        "What a kept model says of other data: a probability for every class.",
        """\
examples:
  raystudy predict studies/dividemix-digits/models/dividemix_digits_symmetric-inclusive-0.5 mine.npz --out predicted.csv
  raystudy predict MODEL ~/pictures --out predicted.csv     a folder of pictures, resized to what the model takes
  raystudy predict MODEL digits --out predicted.npz         the test images of a data set
""",
    ),
    "report": (
        "results:report",
        "Write a study's report: one HTML page, tables (CSV, Markdown, LaTeX) and figures (PNG, PDF).",
        "examples:\n  raystudy report dividemix-digits --open\n  raystudy report dividemix-digits --out ~/paper/report\n",
    ),
    "export": (
        "results:export",
        "Write a study as tables, as an Optuna storage and as a tabular benchmark.",
        "examples:\n  raystudy export dividemix-digits\n  optuna-dashboard studies/dividemix-digits/export/optuna.log\n",
    ),
    "simulate": (
        "results:simulate",
        "Replay a study's trials under other searches: which would have found the winner soonest.",
        "examples:\n  raystudy simulate dividemix-digits --samplers tpe,random --schedulers asha,none --repeats 20\n"
        "  raystudy simulate dividemix-digits --samplers tpe --schedulers asha --workers 4 --slack batches,1,1.5,2\n",
    ),
    "merge": (
        "results:merge",
        "Unite the ledgers of two machines.",
        "examples:\n  raystudy merge dividemix-digits /mnt/other/studies/dividemix-digits\n  raystudy merge run-a run-b --into both\n",
    ),
    "ui": (
        "mlflow:ui",
        "Open the MLflow UI on what was recorded.",
        "examples:\n  raystudy ui --port 5001\n  raystudy ui dividemix-digits --open\n",
    ),
    "sync": (
        "mlflow:sync",
        "Bring MLflow up to a study's ledger.",
        "example:\n  raystudy sync dividemix-digits --tracking-uri http://127.0.0.1:5000\n",
    ),
    "ship": (
        "ship:ship",
        "Write the code and its provenance to a folder, for `ray up cluster.yaml`.",
        "example:\n  raystudy ship && ray up cluster.yaml\n",
    ),
    "slurm": (
        "slurm:slurm",
        "Write a sweep as a job of Slurm that queues itself again until the study is done.",
        """\
examples:
  raystudy slurm dividemix --dataset cifar10 --nodes 4 --time 24h --gpus-per-node 4 --gpus-per-trial 0.5
  raystudy slurm --study dividemix-table1 --nodes 2 --time 8h --partition gpu --gpus-per-node 8 --submit
  raystudy slurm all --array --time 12h --cpus-per-node 16 --setup 'module load cuda'

It takes what `raystudy sweep` takes, and checks it before it writes anything.
""",
    ),
    "kube": (
        "kube:kube",
        "Write a sweep as a RayJob of Kubernetes, for KubeRay.",
        """\
examples:
  raystudy kube dividemix --dataset cifar10 --data-root /data --image registry.example.org/raystudy:1 --storage s3://bucket/studies \\
      --claim cifar:/data --gpus-per-worker 1 --gpus-per-trial 0.5 --max-workers 16 --service-account studies
  raystudy kube --study my-study.toml --image registry.example.org/raystudy:1 --storage s3://bucket/studies --env-secret bucket-keys

It takes what `raystudy sweep` takes, and checks it before it writes anything.
Paths are those of the pods; a study file of your own goes along.
""",
    ),
    "chaos": (
        "chaos:chaos",
        "Run a small study under faults, and check that it comes out as if undisturbed.",
        """\
examples:
  raystudy chaos --minutes 30
  raystudy chaos --kinds driver,raylet,disk
  raystudy chaos --kills 20
""",
    ),
}
