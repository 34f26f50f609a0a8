{{/* SPDX-License-Identifier: Apache-2.0 */}}

{{/* Labels of every object. Call with a dict: root, component. */}}
{{- define "ublkd.labels" -}}
{{ include "ublkd.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels that pods are selected by; they never change. */}}
{{- define "ublkd.selector" -}}
app.kubernetes.io/name: ublkd
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Reference of an image. Call with a dict: image, tag (what an empty tag means). */}}
{{- define "ublkd.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end }}
{{- end }}

{{/* kubelet's folder without a slash at its end: the one place where it is read. */}}
{{- define "ublkd.kubeletDir" -}}
{{ .Values.kubeletDir | trimSuffix "/" }}
{{- end }}

{{/* Folder of the plugin's socket, on the node and in its container. */}}
{{- define "ublkd.pluginDir" -}}
{{ include "ublkd.kubeletDir" . }}/plugins/{{ .Values.driverName }}
{{- end }}

{{/* What may be said about pools only by comparing values; the schema has checked the rest. */}}
{{- define "ublkd.checkPools" -}}
{{- $kubelet := printf "%s/" (include "ublkd.kubeletDir" .) -}}
{{- $names := list -}}
{{- range .Values.pools -}}
{{- $path := printf "%s/" (.path | trimSuffix "/") -}}
{{- if or (hasPrefix $kubelet $path) (hasPrefix $path $kubelet) -}}
{{- fail (printf "pools: the path %s of pool %s and kubeletDir %s lie in each other; ublkd must not see mounts of pods: choose another path" .path .name $.Values.kubeletDir) -}}
{{- end -}}
{{- if has .name $names -}}
{{- fail (printf "pools: the name %s is given twice" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range .Values.storageClasses -}}
{{- if and .pool (not (has .pool $names)) -}}
{{- fail (printf "storageClasses: %s wants pool %s; the pools are %s" .name .pool (join ", " $names)) -}}
{{- end -}}
{{- if and (not .pool) (gt (len $names) 1) -}}
{{- fail (printf "storageClasses: %s must name its pool, since there are several: %s" .name (join ", " $names)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Somebody must end the wait. */}}
{{- define "ublkd.checkGuard" -}}
{{- if and (ne .Values.ublkd.failAfter "wait") (not .Values.guard.enabled) -}}
{{- fail (printf "ublkd.failAfter: it is %s, but nobody would end the wait then: set guard.enabled, or ublkd.failAfter to wait" .Values.ublkd.failAfter) -}}
{{- end -}}
{{- end }}

{{/* What a sidecar may do: nothing but talk to the plugin's socket, which belongs to root. */}}
{{- define "ublkd.sidecarSecurityContext" -}}
runAsUser: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}
