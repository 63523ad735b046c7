#!/bin/sh
# Applies a Kustomize directory and waits until every replica serves its lb.toml.
#
#   ./rollout-kubernetes.sh examples/kubernetes
#
# The kubelet updates a mounted ConfigMap within its sync period, about a minute; lb applies it within
# milliseconds. The exit codes are those of `lb wait`.
set -eu

directory=${1:-.}
kubectl apply --kustomize "$directory"
kubectl rollout status deployment/lb --timeout "${LB_TIMEOUT:-180s}"
for pod in $(kubectl get pods --selector app.kubernetes.io/name=lb --output name); do
    kubectl exec --stdin "$pod" -- lb wait - --timeout "${LB_TIMEOUT:-180s}" <"$directory/lb.toml"
done
