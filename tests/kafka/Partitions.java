// What Kafka's Java client makes of keys: prints, for keys of many lengths and bytes, the key (hex), its murmur2 hash, and its partition among
// 1, 3, 12 and 1000. `tests/kafka/make-partitions.sh` runs it; its output is committed.
import java.util.HexFormat;
import java.util.Random;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.Utils;

public class Partitions {
    public static void main(String[] arguments) {
        Random random = new Random(20260101);
        for (int number = 0; number < 520; number++) {
            byte[] key = new byte[number % 65];
            random.nextBytes(key);
            StringBuilder line = new StringBuilder(HexFormat.of().formatHex(key)).append('\t').append(Utils.murmur2(key));
            for (int partitions : new int[] {1, 3, 12, 1000}) {
                line.append('\t').append(BuiltInPartitioner.partitionForKey(key, partitions));
            }
            System.out.println(line);
        }
    }
}
