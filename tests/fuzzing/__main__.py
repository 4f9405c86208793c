"""Make many calls and print what came of them.

``python -m tests.fuzzing --calls 3000 --seed 0`` prints each unclear call and a table
of outcomes. ``python -m tests.fuzzing --repeat "certify[sample]" "X=array: no rows"``
makes one call again, with its traceback.
"""

import argparse
import sys

from ._calls import Call, arguments_of, draw_calls, outcome_of, outcomes
from ._doors import doors
from ._report import table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzing", description=__doc__
    )
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", default="", help="only doors with this in their name")
    parser.add_argument("--log", help="file for every outcome, one a line")
    parser.add_argument("--repeat", nargs="+", metavar=("DOOR", "NAME=VALUE"))
    options = parser.parse_args()
    if options.repeat:
        door, *pairs = options.repeat
        replaced = (pair.partition("=")[::2] for pair in pairs)
        call = Call(door, tuple(replaced))
        print(outcome_of(call))
        print(doors()[door].call(**arguments_of(call)))
        return 0
    drawn = [
        call
        for call in draw_calls(options.calls, options.seed)
        if options.door in call.door
    ]
    found = []
    for outcome in outcomes(drawn):
        found.append(outcome)
        if outcome.kind == "unclear":
            print(outcome, flush=True)
        if options.log:
            with open(options.log, "a", encoding="utf-8") as log:
                print(outcome, file=log)
    print(table(found))
    return int(any(outcome.kind == "unclear" for outcome in found))


if __name__ == "__main__":
    sys.exit(main())
