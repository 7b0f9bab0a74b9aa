#!/usr/bin/env bash
# Installs Apache Kafka 4.1.1 from Maven Central, once, and prints the folder of its jars: java -cp "$(tests/tools/kafka.sh)/*" kafka.Kafka …
# A judge and a peer, not a part of Tidegate. Needs java (17 or newer) and mvn.
set -euo pipefail

version=4.1.1
home="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}/kafka-$version"

if [ ! -e "$home/.complete" ]; then
  for program in java mvn; do
    command -v "$program" >/dev/null || {
      echo "kafka.sh: $program is missing; install it, e.g. apt-get install default-jre-headless maven" >&2
      exit 1
    }
  done
  echo "Installing Kafka $version into $home" >&2
  mkdir -p "$home/libs"
  cat >"$home/pom.xml" <<POM
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegate.tests</groupId><artifactId>kafka-tools</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$version</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.2</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.2</version></dependency>
  </dependencies>
</project>
POM
  mvn -q -B -f "$home/pom.xml" dependency:copy-dependencies -DoutputDirectory="$home/libs" -DincludeScope=runtime >&2
  touch "$home/.complete"
fi
echo "$home/libs"
