#!/bin/sh
# Applies a Kustomize directory and waits until every replica serves exactly its lb.toml.
#
#   ./rollout-kubernetes.sh examples/kubernetes
#
# The kubelet brings a changed ConfigMap to a pod within its sync period, a minute or so; then the
# balancer has it at once. Exit codes as those of `lb wait`.
set -eu

directory=${1:-.}
kubectl apply --kustomize "$directory"
kubectl rollout status deployment/lb --timeout "${LB_TIMEOUT:-180s}"
for pod in $(kubectl get pods --selector app.kubernetes.io/name=lb --output name); do
    kubectl exec --stdin "$pod" -- lb wait - --timeout "${LB_TIMEOUT:-180s}" <"$directory/lb.toml"
done
