{{/* Names. Installing twice into one namespace works: everything begins with the release's name. */}}
{{- define "tidegate.name" -}}
{{- if contains "tidegate" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-tidegate" (.Release.Name | trunc 31 | trimSuffix "-") }}{{ end -}}
{{- end }}

{{- define "tidegate.operator" -}}{{ include "tidegate.name" . }}-operator{{- end }}

{{/* Cluster-wide names carry the namespace. */}}
{{- define "tidegate.clusterName" -}}{{ include "tidegate.operator" . }}-{{ .Release.Namespace }}{{- end }}

{{- define "tidegate.image" -}}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{- end }}

{{- define "tidegate.hubNamespace" -}}{{ .Values.hub.namespace | default (.Values.watchNamespace | default .Release.Namespace) }}{{- end }}

{{- define "tidegate.testAddress" -}}
{{- if .Values.test.address }}{{ .Values.test.address }}
{{- else if .Values.hub.create }}
{{- $port := 7171 }}{{ range $listener := (.Values.hub.spec.listeners | default list | first | list | compact) }}{{ $port = $listener.port }}{{ end -}}
http://{{ .Values.hub.name }}.{{ include "tidegate.hubNamespace" . }}.svc:{{ $port }}
{{- end }}
{{- end }}

{{- define "tidegate.labels" -}}
app.kubernetes.io/name: tidegate-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* What every pod of the chart has: the restricted Pod Security level. */}}
{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tidegate.container" -}}
image: {{ include "tidegate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "tidegate.containerSecurity" . | nindent 2 }}
{{- end }}

{{- define "tidegate.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What the operator may do to objects where it acts. Secrets are not among them: only brokers' pods read credentials. */}}
{{- define "tidegate.rules" -}}
- apiGroups: [tidegate.dev]
  resources: [hubs]
  verbs: [get, list, watch, patch]
- apiGroups: [tidegate.dev]
  resources: [topics]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [tidegate.dev]
  resources: [hubs/status, topics/status]
  verbs: [patch]
# Owners may be named on objects only by who may set the owner's finalizers, where the cluster asks for that.
- apiGroups: [tidegate.dev]
  resources: [hubs/finalizers]
  verbs: [update]
# What goes with a hub is collected by the cluster. Objects are made and changed by server-side apply, which asks for `create` where there is none.
# What is left of a broker that its hub has retired is deleted by uid.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# Whether a namespace is going.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}
