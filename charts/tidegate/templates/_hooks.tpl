{{/* A hook: its ServiceAccount, rights and Job. Called with root, name, on (the moment), command, and either rules for a ClusterRole or roles (a list of namespace and rules). */}}
{{- define "tidegate.hookMeta" -}}
labels:
  {{- include "tidegate.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .name }}
annotations:
  helm.sh/hook: {{ .on }}
  helm.sh/hook-weight: {{ .weight | quote }}
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "tidegate.hook" -}}
{{- $name := printf "%s-%s" (include "tidegate.name" .root) .name }}
{{- $clusterName := printf "%s-%s" $name .root.Release.Namespace }}
{{- $early := dict "root" .root "name" .name "on" .on "weight" "-5" }}
{{- $late := dict "root" .root "name" .name "on" .on "weight" "5" }}
{{- $account := dict "kind" "ServiceAccount" "name" $name "namespace" .root.Release.Namespace }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  {{- include "tidegate.hookMeta" $early | nindent 2 }}
{{- with .clusterRules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $clusterName }}
  {{- include "tidegate.hookMeta" $early | nindent 2 }}
rules:
  {{- toYaml . | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $clusterName }}
  {{- include "tidegate.hookMeta" $early | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $clusterName }}}
subjects: [{{ toJson $account }}]
{{- end }}
{{- range .roles }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}{{ .suffix }}
  namespace: {{ .namespace }}
  {{- include "tidegate.hookMeta" $early | nindent 2 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}{{ .suffix }}
  namespace: {{ .namespace }}
  {{- include "tidegate.hookMeta" $early | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}{{ .suffix }}}
subjects: [{{ toJson $account }}]
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  {{- include "tidegate.hookMeta" $late | nindent 2 }}
spec:
  backoffLimit: 3
  activeDeadlineSeconds: 120
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {{ $name }}
        app.kubernetes.io/instance: {{ .root.Release.Name }}
    spec:
      serviceAccountName: {{ $name }}
      restartPolicy: OnFailure
      enableServiceLinks: false
      {{- include "tidegate.pullSecrets" .root | nindent 6 }}
      securityContext:
        {{- include "tidegate.podSecurity" .root | nindent 8 }}
      {{- with .root.Values.operator.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.operator.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .name }}
          {{- include "tidegate.container" .root | nindent 10 }}
          command: [/tidegate-operator]
          args: {{ toJson .args }}
          resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 128Mi}}
{{- end }}
