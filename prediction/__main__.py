"""``python -m prediction --platform trn2 --output FILE.json``: the whole model's modelled time."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from evaluation.files import write_json
from nki_sim.install import install


def main() -> None:
    """Predict for one platform and write the result."""
    parser = argparse.ArgumentParser(
        prog="python -m prediction", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--platform", choices=("trn2", "trn3"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON")
    options = parser.parse_args()
    os.environ["NKI_SIMULATOR"] = "1"
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = options.platform
    install()
    from prediction.whole import predict_model, summary

    result = predict_model(options.platform)
    write_json(options.output, result)
    print(summary(result))


if __name__ == "__main__":
    main()
