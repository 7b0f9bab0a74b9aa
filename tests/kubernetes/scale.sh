# The part `scale` of run.sh: the part `fleet` without the lost node.
source tests/kubernetes/fleet.sh
