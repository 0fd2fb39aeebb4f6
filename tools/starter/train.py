"""Make the starter from nothing: data, text encoder, VAE, UNet, export, figures and card. One command:

    python tools/starter/train.py --work build/starter

Every part goes on from where it was stopped. On two CPU cores it takes about two hours; `--minutes` sets how long the
UNet trains.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(script: str, work: Path, *more: str) -> None:
    print(f"== {script} {' '.join(more)}", flush=True)
    subprocess.run([sys.executable, str(HERE / script), "--work", str(work), *more], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="folder for data and checkpoints")
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "starter", help="folder of the model")
    parser.add_argument("--minutes", type=float, default=75, help="of UNet training")
    parser.add_argument("--decoder-minutes", type=float, default=20)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "text_encoder").exists():
        run("text.py", args.work)
    if not (args.work / "vae").exists():
        run("vae.py", args.work, "--minutes", str(args.decoder_minutes))
    run("unet.py", args.work, "--minutes", str(args.minutes))
    run("export.py", args.work, "--out", str(args.out))
    run("evaluate.py", args.work, "--folder", str(args.out))
    run("card.py", args.work, "--folder", str(args.out))


if __name__ == "__main__":
    main()
